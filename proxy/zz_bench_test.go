package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func BenchmarkZZ(b *testing.B) {
	m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/members" {
			io.WriteString(w, `{"members":[{"id":"1","clientURLs":["http://`+r.Host+`"]}]}`)
			return
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"action":"set"}`)
	}))
	defer m.Close()
	p, err := New(Config{Bootstrap: func(context.Context) ([]string, error) { return []string{m.URL}, nil }})
	if err != nil {
		b.Fatal(err)
	}
	p.Start()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	s := &http.Server{Handler: p}
	go s.Serve(l)
	for {
		if _, h := p.members.count(); h > 0 {
			break
		}
	}
	base := "http://" + l.Addr().String()
	b.SetParallelism(32)
	b.ReportAllocs()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest("GET", base+"/keys/a", nil)
			resp, err := c.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	c.CloseIdleConnections()
	s.Close()
	p.Close(context.Background())
}
