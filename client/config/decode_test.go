package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

type limits struct {
	Rate  float64       `deimos:"rate"`
	Wait  time.Duration `deimos:"wait"`
	Burst uint8         `deimos:"burst"`
}

type settings struct {
	Name     string             `deimos:"name,required"`
	Debug    bool               `deimos:"debug"`
	Port     int                `deimos:"port"`
	Hosts    []string           `deimos:"hosts"`
	Level    slog.Level         `deimos:"level"`
	Bind     netip.Addr         `deimos:"bind"`
	Limits   limits             `deimos:"limits"`
	Weights  map[string]int     `deimos:"weights,json"`
	Extra    struct{ A, B int } `deimos:"extra,json"`
	Untagged string
}

func TestDecodeFillsFieldsByTheirTags(t *testing.T) {
	got, err := Decode[settings](Tree{
		"name": " web ", "debug": "true\n", "port": "0x1f90", "hosts": "a, b ,c", "level": "WARN", "bind": "::1",
		"limits/rate": "2.5", "limits/wait": "1m30s", "limits/burst": "255",
		"weights": `{"a":1}`, "extra": `{"A":1,"B":2}`, "Untagged": "x", "unknown": "x",
	})
	want := settings{
		Name: " web ", Debug: true, Port: 8080, Hosts: []string{"a", "b", "c"}, Level: slog.LevelWarn, Bind: netip.MustParseAddr("::1"),
		Limits: limits{2.5, 90 * time.Second, 255}, Weights: map[string]int{"a": 1}, Extra: struct{ A, B int }{1, 2},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Decode = %+v, %v, want %+v", got, err, want)
	}
}

func TestDecodeKeepsDefaults(t *testing.T) {
	s := settings{Port: 80, Hosts: []string{"x"}, Weights: map[string]int{"old": 1}, Limits: limits{Wait: time.Second}}
	err := Tree{"name": "n", "hosts": "", "weights": `{"new":2}`, "limits/rate": "1"}.Decode(&s)
	want := settings{Name: "n", Port: 80, Weights: map[string]int{"new": 2}, Limits: limits{Rate: 1, Wait: time.Second}}
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("Decode: %+v, %v, want %+v", s, err, want)
	}
}

func TestDecodeNamesEverythingThatIsWrong(t *testing.T) {
	_, err := Decode[settings](Tree{
		"debug": "maybe", "port": "http", "level": "LOUD", "bind": "here",
		"limits/rate": "fast", "limits/wait": "5", "limits/burst": "256", "weights": "{", "extra": `{"A":"x"}`,
	})
	if err == nil {
		t.Fatal("Decode took it all")
	}
	for _, want := range []string{
		"name: is missing", `debug: "maybe" is no bool`, `port: "http" is no int`, "level: ", "bind: ", `limits/rate: "fast" is no float64`,
		`limits/wait: "5" is no duration, want one like 1m30s`, `limits/burst: "256" does not fit into uint8`, "weights: unexpected end", "extra: json",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 10 {
		t.Errorf("%d errors, want 10:\n%v", n, err)
	}
}

func TestDecodeStrictRefusesUnknownKeys(t *testing.T) {
	if _, err := DecodeStrict[settings](Tree{"name": "n", "limits/rate": "1"}); err != nil {
		t.Errorf("DecodeStrict of known keys: %v", err)
	}
	_, err := DecodeStrict[settings](Tree{"name": "n", "Port": "1", "limits/rat": "1", "limits": "1", "port/x": "1"})
	if want := "Port: unknown key\nlimits: unknown key\nlimits/rat: unknown key\nport/x: unknown key"; err == nil || err.Error() != want {
		t.Errorf("DecodeStrict: %v, want %s", err, want)
	}
}

func TestMistakesOfTheProgramPanic(t *testing.T) {
	tree := Tree{"a": "1"}
	for _, tt := range []struct {
		name string
		into any
		want string
	}{
		{"no pointer", settings{}, "want a pointer to a struct"},
		{"no struct", new(int), "want a pointer to a struct"},
		{"option", new(struct {
			A int `deimos:"a,omitempty"`
		}), `unknown option "omitempty"`},
		{"path", new(struct {
			A int `deimos:"a/b"`
		}), "needs a name without slashes"},
		{"unexported", new(struct {
			a int `deimos:"a"`
		}), "exported field"},
		{"type", new(struct {
			A map[string]int `deimos:"a"`
		}), "needs a tag with json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tt.want) {
					t.Errorf("panic %q, want %q", got, tt.want)
				}
			}()
			_ = tree.Decode(tt.into)
		})
	}
}

func TestSubOfATree(t *testing.T) {
	tree := Tree{"a": "1", "b/c": "2", "b/d/e": "3", "bb/f": "4"}
	if got := fmt.Sprint(tree.Sub("b"), tree.Keys(), tree.Sub("x").Keys()); got != "map[c:2 d/e:3] [a b/c b/d/e bb/f] []" {
		t.Errorf("got %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name", "x", "limits/wait", "1s")
	f.Add("port", "0x", "weights", `{"a":1}`)
	f.Add("hosts", ",,", "level", "INFO+3")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		tree := Tree{k1: v1, k2: v2, "name": "n"}
		a, err := DecodeStrict[settings](tree)
		if b, err2 := Decode[settings](tree); err == nil && (err2 != nil || a.Port != b.Port) {
			t.Errorf("DecodeStrict takes %v and Decode says %v", tree, err2)
		}
	})
}
