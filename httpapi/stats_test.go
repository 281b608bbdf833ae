package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

var testStart = time.Date(2030, 1, 1, 1, 0, 0, 0, time.FixedZone("", 3600))

func TestStatsAreWrittenInOrder(t *testing.T) {
	const storeStats = `{"getsSuccess":0,"getsFail":0,"setsSuccess":1,"setsFail":2,"deleteSuccess":3,"deleteFail":4,` +
		`"updateSuccess":5,"updateFail":6,"createSuccess":7,"createFail":8,"compareAndSwapSuccess":9,"compareAndSwapFail":10,` +
		`"compareAndDeleteSuccess":11,"compareAndDeleteFail":12,"expireCount":13,"watchers":14}`
	alone := SelfStats{
		Name: "n1", ID: 0x8e9e05c52164694d, Leads: true, StartTime: testStart,
		Leader: LeaderInfo{ID: 0x8e9e05c52164694d, Uptime: 5 * time.Second, StartTime: testStart.Add(time.Second)},
	}
	busy := SelfStats{
		Name: "<n2>", ID: 0x10, StartTime: testStart.Add(1500 * time.Microsecond),
		Leader: LeaderInfo{Uptime: time.Hour, StartTime: testStart}, // of no meaning without an id
		Recv:   MessageStats{AppendRequests: 7, PkgRate: 2.5, BandwidthRate: 1e21},
		Send:   MessageStats{AppendRequests: 8, PkgRate: math.NaN(), BandwidthRate: 3},
	}
	for _, tt := range []struct {
		name   string
		self   SelfStats
		lead   *LeaderStats
		target string
		status int
		want   string
	}{
		{"self of a single member", alone, nil, "/v2/stats/self", 200,
			`{"name":"n1","id":"8e9e05c52164694d","state":"StateLeader","startTime":"2030-01-01T00:00:00Z",` +
				`"leaderInfo":{"leader":"8e9e05c52164694d","uptime":"5s","startTime":"2030-01-01T00:00:01Z"},` +
				`"recvAppendRequestCnt":0,"sendAppendRequestCnt":0}`},
		{"self of a busy follower without a leader", busy, nil, "/v2/stats/self", 200,
			`{"name":"\u003cn2\u003e","id":"10","state":"StateFollower","startTime":"2030-01-01T00:00:00.0015Z",` +
				`"leaderInfo":{"leader":"","uptime":"0s","startTime":"0001-01-01T00:00:00Z"},` +
				`"recvAppendRequestCnt":7,"recvPkgRate":2.5,"recvBandwidthRate":1000000000000000000000,` +
				`"sendAppendRequestCnt":8,"sendBandwidthRate":3}`},
		{"leader alone", alone, &LeaderStats{Leader: 0x8e9e05c52164694d}, "/v2/stats/leader", 200, `{"leader":"8e9e05c52164694d","followers":{}}`},
		{"leader of two", alone, &LeaderStats{Leader: 1, Followers: []FollowerStats{
			{ID: 0x10, Latency: LatencyStats{math.Inf(1), math.NaN(), 0, 0, 0}},
			{ID: 2, Latency: LatencyStats{1.5, 2, 0.25, 1, 3}, Success: 9, Fail: 4},
		}}, "/v2/stats/leader", 200, `{"leader":"1","followers":{` +
			`"2":{"latency":{"current":1.5,"average":2,"standardDeviation":0.25,"minimum":1,"maximum":3},"counts":{"fail":4,"success":9}},` +
			`"10":{"latency":{"current":0,"average":0,"standardDeviation":0,"minimum":0,"maximum":0},"counts":{"fail":0,"success":0}}}}`},
		{"no leader", alone, nil, "/v2/stats/leader", 403, `{"message":"not current leader"}`},
		{"store", alone, nil, "/v2/stats/store", 200, storeStats},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			b.self, b.lead = tt.self, tt.lead
			b.applied = StoreStats{
				Sets: OpStats{1, 2}, Deletes: OpStats{3, 4}, Updates: OpStats{5, 6}, Creates: OpStats{7, 8},
				CompareAndSwaps: OpStats{9, 10}, CompareAndDeletes: OpStats{11, 12}, Expires: 13, Watchers: 14,
			}
			w := do(newHandler(t, b, nil), testRequest{method: "GET", target: tt.target})
			if w.Code != tt.status || w.Body.String() != tt.want+"\n" {
				t.Errorf("GET %s = %d %q, want %d %q", tt.target, w.Code, w.Body, tt.status, tt.want)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type = %q, want application/json", got)
			}
		})
	}
}

func TestStatsHaveOneMethodAndThreePaths(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	for _, target := range []string{"/v2/stats/self", "/v2/stats/leader", "/v2/stats/store"} {
		for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "get"} {
			w := do(h, testRequest{method: method, target: target})
			if w.Code != 405 || w.Header().Get("Allow") != "GET" || method != "HEAD" && w.Body.String() != textNotAllowed {
				t.Errorf("%s %s = %d %q, Allow %q, want 405 and GET", method, target, w.Code, w.Body, w.Header().Get("Allow"))
			}
		}
	}
	for _, target := range []string{"/v2/stats", "/v2/stats/", "/v2/stats/self/", "/v2/stats/other", "/stats/self"} {
		if w := do(h, testRequest{method: "GET", target: target}); w.Code != 404 || w.Body.String() != "404 page not found\n" {
			t.Errorf("GET %s = %d %q, want 404 in plain text", target, w.Code, w.Body)
		}
	}
}

func TestReadsCountWhenTheyHaveLookedAKeyUp(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	mustPut(t, h, "/keys/a", "value=1")
	counts := func() (success, fail uint64) {
		t.Helper()
		var got struct{ GetsSuccess, GetsFail uint64 }
		if err := json.Unmarshal(do(h, testRequest{method: "GET", target: "/v2/stats/store"}).Body.Bytes(), &got); err != nil {
			t.Fatalf("Unmarshal(/v2/stats/store) = %v, want nil", err)
		}
		return got.GetsSuccess, got.GetsFail
	}
	for _, tt := range []struct {
		name          string
		q             testRequest
		success, fail uint64
	}{
		{"a read", testRequest{method: "GET", target: "/keys/a"}, 1, 0},
		{"a local read", testRequest{method: "GET", target: "/v2/keys"}, 2, 0},
		{"a HEAD", testRequest{method: "HEAD", target: "/keys/a"}, 3, 0},
		{"a missing key", testRequest{method: "GET", target: "/keys/none"}, 3, 1},
		{"a file on the way", testRequest{method: "HEAD", target: "/v2/keys/a/b"}, 3, 2},
		{"validation", testRequest{method: "GET", target: "/keys/a?quorum=maybe"}, 3, 2},
		{"a write", testRequest{method: "PUT", target: "/keys/a"}, 3, 2},
		{"a watch that finds its event in the history", testRequest{method: "GET", target: "/keys/a?wait=true&waitIndex=2"}, 3, 2},
	} {
		do(h, tt.q)
		if success, fail := counts(); success != tt.success || fail != tt.fail {
			t.Errorf("after %s: getsSuccess, getsFail = %d, %d, want %d, %d", tt.name, success, fail, tt.success, tt.fail)
		}
	}
	b.read = func(context.Context, bool) (store.View, error) {
		return store.View{}, &deimos.Error{Code: deimos.CodeLeaderElection}
	}
	do(h, testRequest{method: "GET", target: "/keys/a"})
	if success, fail := counts(); success != 3 || fail != 2 {
		t.Errorf("after a read without a leader: getsSuccess, getsFail = %d, %d, want 3, 2", success, fail)
	}
}

// referenceSelf is SelfStats for encoding/json.
type referenceSelf struct {
	Name       string    `json:"name"`
	ID         string    `json:"id"`
	State      string    `json:"state"`
	StartTime  time.Time `json:"startTime"`
	LeaderInfo struct {
		Leader    string    `json:"leader"`
		Uptime    string    `json:"uptime"`
		StartTime time.Time `json:"startTime"`
	} `json:"leaderInfo"`
	RecvAppendRequestCnt uint64  `json:"recvAppendRequestCnt"`
	RecvPkgRate          float64 `json:"recvPkgRate,omitempty"`
	RecvBandwidthRate    float64 `json:"recvBandwidthRate,omitempty"`
	SendAppendRequestCnt uint64  `json:"sendAppendRequestCnt"`
	SendPkgRate          float64 `json:"sendPkgRate,omitempty"`
	SendBandwidthRate    float64 `json:"sendBandwidthRate,omitempty"`
}

func FuzzSelfStatsAgainstEncodingJSON(f *testing.F) {
	f.Add("n1", uint64(1), int64(1893456000e9), int64(5e9), uint64(3), 0.0)
	f.Add("<\xff>", uint64(math.MaxUint64), int64(1), int64(-1), uint64(0), 1234.5678)
	f.Add("", uint64(0), int64(-1), int64(math.MaxInt64), uint64(1), math.Inf(-1))
	f.Fuzz(func(t *testing.T, name string, leader uint64, startNS, uptimeNS int64, count uint64, rate float64) {
		s := SelfStats{
			Name: name, ID: 7, StartTime: time.Unix(0, startNS),
			Leader: LeaderInfo{ID: leader, Uptime: time.Duration(uptimeNS), StartTime: time.Unix(0, startNS)},
			Recv:   MessageStats{count, rate, -rate}, Send: MessageStats{count, -rate, rate},
		}
		line := appendSelfStats(nil, &s)
		var got referenceSelf
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil {
			t.Fatalf("Decode(%s) = %v, want nil", line, err)
		}
		if finite(rate) != rate {
			rate = 0
		}
		want := referenceSelf{
			Name: got.Name, ID: "7", State: "StateFollower", StartTime: s.StartTime.UTC(),
			RecvAppendRequestCnt: count, RecvPkgRate: rate, RecvBandwidthRate: -rate,
			SendAppendRequestCnt: count, SendPkgRate: -rate, SendBandwidthRate: rate,
		}
		want.LeaderInfo.Uptime = "0s"
		if leader != 0 {
			want.LeaderInfo.Leader = strconv.FormatUint(leader, 16)
			want.LeaderInfo.Uptime = time.Duration(uptimeNS).String()
			want.LeaderInfo.StartTime = s.StartTime.UTC()
		}
		if got, want := marshal(t, got), marshal(t, want); !bytes.Equal(got, want) {
			t.Errorf("appendSelfStats(%+v) = %s, want %s", s, got, want)
		}
	})
}
