package load

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBadConfigurationsAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name   string // of the setting
		change func(*Config)
	}{
		{"work", func(c *Config) { c.Work = "delete" }},
		{"work", func(c *Config) { c.Work = Fill }},
		{"connections", func(c *Config) { c.Connections = 0 }},
		{"connections", func(c *Config) { c.Connections = ConnectionsMax + 1 }},
		{"keys", func(c *Config) { c.Keys.Count = 0 }},
		{"keys", func(c *Config) { c.Keys.Count = KeysMax + 1 }},
		{"rate", func(c *Config) { *c = Default(OpenLoop); c.Rate = 0.05 }},
		{"per-dir", func(c *Config) { c.Keys.PerDir = -1 }},
		{"value-bytes", func(c *Config) { c.Keys.ValueBytes = ValueBytesMax + 1 }},
		{"value-bytes", func(c *Config) { *c = Default(WatchFanout); c.Keys.ValueBytes = eventDigits - 1 }},
		{"requests", func(c *Config) { c.Requests = -1 }},
		{"duration", func(c *Config) { c.Duration = 0 }},
		{"duration", func(c *Config) { c.Duration = DurationMax + 1 }},
		{"warmup", func(c *Config) { c.Warmup = -1 }},
		{"timeout", func(c *Config) { c.Timeout = 0 }},
		{"timeout", func(c *Config) { c.Timeout = TimeoutMax + 1 }},
		{"reads", func(c *Config) { c.Reads = 1.1 }},
		{"rate", func(c *Config) { c.Rate = 1 }},
		{"rate", func(c *Config) { c.Work = OpenLoop }},
		{"rate", func(c *Config) { c.Work, c.Rate = OpenLoop, RateMax+1 }},
		{"rate", func(c *Config) { *c = Default(OpenLoop); c.Rate = 0.05 }},
		{"per-dir", func(c *Config) { *c = Default(List); c.Keys.PerDir = 0 }},
		{"watchers", func(c *Config) { *c = Default(WatchFanout); c.Watchers = 0 }},
		{"prefix", func(c *Config) { c.Target.Prefix = "keys" }},
		{"key-prefix", func(c *Config) { c.Keys.Prefix = "/" }},
		{"key-prefix", func(c *Config) { c.Keys.Prefix = "/a\r\nb" }},
		{"endpoints", func(c *Config) { c.Target.Endpoints = nil }},
		{"endpoints", func(c *Config) { c.Target.Endpoints = []string{"127.0.0.1:4001"} }},
		{"endpoints", func(c *Config) { c.Target.Endpoints = []string{"ftp://127.0.0.1"} }},
		{"endpoints", func(c *Config) { c.Target.Endpoints = []string{"http://127.0.0.1:4001/keys"} }},
	} {
		cfg := Default(Put)
		tt.change(&cfg)
		_, err := Run(t.Context(), cfg)
		if e, ok := errors.AsType[*ConfigError](err); !ok || e.Name != tt.name || e.Reason == "" {
			t.Errorf("Run(%+v) = %v, want an error about %s", cfg, err, tt.name)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	for _, w := range Works() {
		cfg := Default(w)
		if err := cfg.check(); err != nil {
			t.Errorf("Default(%s).check() = %v", w, err)
		}
		if _, err := parseEndpoints(cfg.Target); err != nil {
			t.Errorf("parseEndpoints() = %v", err)
		}
	}
}

// TestNamesInJSONDoNotChange holds the names that programs of others read.
func TestNamesInJSONDoNotChange(t *testing.T) {
	full := Result{
		Work: Mixed, Endpoints: []string{"http://a:1"}, Connections: 1, Watchers: 2, Keys: 3, PerDir: 4, ValueBytes: 5, Rate: 6, Reads: 0.5,
		Seed: 7, FilledKeys: 8, WarmupSeconds: 1, DurationSeconds: 2, Operations: 9, OperationsPerSecond: 4.5, FailuresTotal: 1,
		Failures: []Failure{{KindStatus, 503, 300, 1}}, Reconnects: 1, Deliveries: 18, SentBytes: 10, ReceivedBytes: 11, BytesPerSecond: 10.5,
		Latency: Latency{1, 2, 3, 4, 5, 6, 7, 8, []Bound{{9, 1}}}, GeneratorCPUSeconds: 0.5,
	}
	got, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"work":"mixed","endpoints":["http://a:1"],"connections":1,"watchers":2,"keys":3,"keys_per_directory":4,"value_bytes":5,` +
		`"rate_per_second":6,"reads":0.5,"seed":7,"filled_keys":8,"warmup_seconds":1,"duration_seconds":2,"interrupted":false,` +
		`"operations":9,"operations_per_second":4.5,"failures_total":1,"failures":[{"kind":"status","status":503,"error_code":300,"count":1}],` +
		`"reconnects":1,"deliveries":18,"sent_bytes":10,"received_bytes":11,"bytes_per_second":10.5,` +
		`"latency":{"count":1,"min_seconds":2,"mean_seconds":3,"p50_seconds":4,"p90_seconds":5,"p99_seconds":6,"p99_9_seconds":7,"max_seconds":8,` +
		`"buckets":[{"le_seconds":9,"count":1}]},"generator_cpu_seconds":0.5}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("JSON, want -, got +:\n%s", diff)
	}
}

func TestBucketsAddUp(t *testing.T) {
	h := newHistogram()
	for _, d := range []time.Duration{0, 5 * time.Microsecond, 15 * time.Microsecond, time.Millisecond, time.Second} {
		if err := h.RecordValue(int64(d)); err != nil {
			t.Fatal(err)
		}
	}
	l := summary(h)
	want := map[float64]int64{0.00001: 2, 0.00002: 3, 0.00064: 3, 0.00128: 4, 0.65536: 4, 1.31072: 5}
	for _, b := range l.Bounds {
		if n, ok := want[b.Seconds]; ok && n != b.Count {
			t.Errorf("%d latencies up to %v s, want %d", b.Count, b.Seconds, n)
		}
		delete(want, b.Seconds)
	}
	if last := l.Bounds[len(l.Bounds)-1]; len(want) > 0 || last.Count != l.Count {
		t.Errorf("the buckets are %v: without %v, or not up to %d", l.Bounds, want, l.Count)
	}
}
