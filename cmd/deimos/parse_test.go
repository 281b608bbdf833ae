package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/marsevilspirit/deimos/daemon"
)

func words(text string) []string { return strings.Fields(text) }

func TestParseRefusesInOneSentence(t *testing.T) {
	for _, tt := range []struct {
		name      string
		args, env string // separated by blanks
		file      string // x.yaml
		want      string
	}{
		// Flags as such.
		{name: "unknown flag", args: "--bogus", want: "unknown flag --bogus, see deimos --help"},
		{name: "unknown flag with one dash", args: "-bogus=1", want: "unknown flag --bogus, see deimos --help"},
		{name: "no one-letter flags", args: "-n node1", want: "unknown flag --n, see deimos --help"},
		{name: "dash and digit", args: "-5", want: "unknown flag -5, see deimos --help"},
		{name: "three dashes", args: "---name", want: "unknown flag ---name, see deimos --help"},
		{name: "flag without name", args: "--=1", want: "unknown flag --=1, see deimos --help"},
		{name: "unprintable flag", args: "--a\x01", want: `unknown flag "--a\x01", see deimos --help`},
		{name: "missing value", args: "--name", want: "--name needs a value"},
		{name: "surplus argument", args: "--name n1 start", want: `unexpected argument "start", see deimos --help`},
		{name: "command with a slip", args: "putt /a 1 --ttl 1m", want: `deimos has no command "putt", did you mean deimos put? See deimos help`},
		{name: "no command", args: "start --name n1", want: `deimos has no command "start", see deimos help`},
		{name: "surplus after two dashes", args: "-- -name", want: `unexpected argument "-name", see deimos --help`},
		{name: "surplus after a bool", args: "--insecure-peers false", want: `unexpected argument "false": write --insecure-peers=false`},
		{name: "word after a bool", args: "--insecure-peers all", want: `unexpected argument "all", see deimos --help`},
		{name: "slip of the fingers", args: "--nmae n1", want: "unknown flag --nmae, did you mean --name?"},
		{name: "beginning of a flag", args: "--peer-cert a", want: "unknown flag --peer-cert, did you mean --peer-cert-file?"},
		{name: "surplus beside version", args: "--version now", want: `unexpected argument "now", see deimos --help`},
		{name: "bad version", args: "--version=soon", want: `--version: invalid value "soon": must be true or false`},
		{name: "heartbeat-timeout", args: "--heartbeat-timeout 5", want: "--heartbeat-timeout does not exist: use heartbeat-interval"},
		{name: "tick-interval", args: "-tick-interval=5", want: "--tick-interval does not exist: use heartbeat-interval"},
		{name: "heartbeat-timeout variable", env: "DEIMOS_HEARTBEAT_TIMEOUT=5",
			want: "DEIMOS_HEARTBEAT_TIMEOUT does not exist: use heartbeat-interval"},
		{name: "tick-interval key", file: "tick-interval: 5", want: "config file x.yaml: tick-interval does not exist: use heartbeat-interval"},

		// Values, by place.
		{name: "value of a flag", args: "--timeout soon", want: `--timeout: invalid value "soon"`},
		{name: "value of an alias", args: "--request-timeout soon", want: `--request-timeout: invalid value "soon"`},
		{name: "value of a variable", env: "DEIMOS_TIMEOUT=soon", want: `DEIMOS_TIMEOUT: invalid value "soon"`},
		{name: "value of an alias variable", env: "DEIMOS_REQUEST_TIMEOUT=soon", want: `DEIMOS_REQUEST_TIMEOUT: invalid value "soon"`},
		{name: "value of a key", file: "timeout: soon", want: `config file x.yaml: timeout: invalid value "soon"`},
		{name: "invalid though overridden by a flag", args: "--timeout 1s", env: "DEIMOS_TIMEOUT=soon",
			want: `DEIMOS_TIMEOUT: invalid value "soon"`},
		{name: "invalid though overridden by a variable", env: "DEIMOS_TIMEOUT=1s", file: "timeout: soon",
			want: `config file x.yaml: timeout: invalid value "soon"`},
		{name: "invalid though repeated", args: "--timeout soon --timeout 1s", want: `--timeout: invalid value "soon"`},

		// Values, by kind.
		{name: "duration without unit", args: "--timeout 5", want: `--timeout: invalid value "5": a unit is required, as in 5s or 500ms`},
		{name: "zero duration", args: "--watch-timeout 0", want: `--watch-timeout: invalid value "0": must be above 0`},
		{name: "negative duration", args: "--timeout=-1s", want: `--timeout: invalid value "-1s": must be above 0`},
		{name: "zero milliseconds", args: "--heartbeat-interval 0", want: `--heartbeat-interval: invalid value "0": must be above 0`},
		{name: "endless milliseconds", args: "--election-timeout 9223372036854775807",
			want: `--election-timeout: invalid value "9223372036854775807": is too large`},
		{name: "word for a number", args: "--snapshot-count many", want: `--snapshot-count: invalid value "many": must be a whole number`},
		{name: "one snapshot", args: "--max-snapshots 1", want: `--max-snapshots: invalid value "1": must be above 1`},
		{name: "no segment", args: "--max-wals 0", want: `--max-wals: invalid value "0": must be above 0`},
		{name: "zero count", args: "--snapshot-count 0", want: `--snapshot-count: invalid value "0": must be above 0`},
		{name: "negative count", args: "--history-events -1", want: `--history-events: invalid value "-1": must be above 0`},
		{name: "count beyond 63 bits", args: "--history-bytes 9223372036854775808",
			want: `--history-bytes: invalid value "9223372036854775808": is too large`},
		{name: "value limit too small", args: "--max-value-bytes 1023", want: `--max-value-bytes: invalid value "1023": must be 1024 … 8388608`},
		{name: "value limit too large", args: "--max-value-bytes 8388609",
			want: `--max-value-bytes: invalid value "8388609": must be 1024 … 8388608`},
		{name: "negative value limit", args: "--max-value-bytes=-1", want: `--max-value-bytes: invalid value "-1": must be 1024 … 8388608`},
		{name: "bool", args: "--insecure-peers=maybe", want: `--insecure-peers: invalid value "maybe": must be true or false`},
		{name: "log level", args: "--log-level loud", want: `--log-level: invalid value "loud": must be debug, info, warn or error`},
		{name: "log level in capitals", args: "--log-level INFO", want: `--log-level: invalid value "INFO": must be debug, info, warn or error`},
		{name: "log format", args: "--log-format xml", want: `--log-format: invalid value "xml": must be text or json`},
		{name: "empty name", args: "--name=", want: `--name: invalid value "": a name is not empty`},
		{name: "name with a comma", args: "--name a,b", want: `--name: invalid value "a,b": a name has no '=', ',', space or control character`},
		{name: "empty data-dir", args: "--data-dir=", want: `--data-dir: invalid value "": must not be empty`},
		{name: "value with a line break", file: `data-dir: "a\nb"`, want: `config file x.yaml: data-dir: invalid value "a\nb": must not have control characters`},
		{name: "URL without scheme", args: "--listen-client-urls localhost:4001",
			want: `--listen-client-urls: invalid value "localhost:4001": a URL begins with http:// or https://`},
		{name: "URL without port", args: "--listen-peer-urls http://localhost",
			want: `--listen-peer-urls: invalid value "http://localhost": a URL has host:port`},
		{name: "URL with path", args: "--advertise-client-urls http://localhost:1/keys",
			want: `--advertise-client-urls: invalid value "http://localhost:1/keys": a URL has no path, query or user`},
		{name: "empty item", args: "--advertise-peer-urls http://localhost:1,",
			want: `--advertise-peer-urls: invalid value "http://localhost:1,": a URL begins with http:// or https://`},
		{name: "advertised port 0", args: "--initial-advertise-peer-urls http://localhost:0",
			want: `--initial-advertise-peer-urls: invalid value "http://localhost:0": port 0 is for listening only`},
		{name: "cors", args: "--cors good.example", want: `--cors: invalid value "good.example": an origin is scheme://host or scheme://host:port, or * for all`},
		{name: "cors star among others", args: "--cors *,http://good.example",
			want: `--cors: invalid value "*,http://good.example": * stands alone or not at all`},

		// Members.
		{name: "bootstrap without name", args: "--bootstrap-config http://localhost:1",
			want: `--bootstrap-config: invalid value "http://localhost:1": a member is written name=url`},
		{name: "bootstrap with empty name", args: "--bootstrap-config =http://localhost:1",
			want: `bootstrap-config: name "": a name is not empty`},
		{name: "bootstrap URL without scheme", args: "--initial-cluster default=localhost:1",
			want: `--initial-cluster: invalid value "default=localhost:1": a URL begins with http:// or https://`},
		{name: "bootstrap without this member", args: "--name X --bootstrap-config n1=http://localhost:1",
			want: `no member with name="X" in bootstrap-config`},
		{name: "two members on one URL", args: "--name a --bootstrap-config a=http://localhost:1,b=http://LOCALHOST:01",
			want: `bootstrap-config: members "a" and "b" have the same peer URL http://localhost:1`},
		{name: "peers beyond loopback", args: "--name n1 --bootstrap-config n1=http://10.0.0.1:7001",
			want: "peer URL http://10.0.0.1:7001 is not a loopback address and the members do not prove themselves: " +
				"give --peer-cert-file, --peer-key-file and --peer-ca-file, or --peer-secret-file, " +
				"or --insecure-peers if the network between the members is trusted"},

		// Aliases.
		{name: "alias differs on the command line", args: "--timeout 1s --request-timeout 2s",
			want: `--timeout and --request-timeout are the same option and have different values, "1s" and "2s"`},
		{name: "alias differs in the environment", env: "DEIMOS_REQUEST_TIMEOUT=2s DEIMOS_TIMEOUT=1s",
			want: `DEIMOS_TIMEOUT and DEIMOS_REQUEST_TIMEOUT are the same option and have different values, "1s" and "2s"`},
		{name: "alias differs in the file", file: "bootstrap-config: default=http://localhost:1\ninitial-cluster: default=http://localhost:2",
			want: `config file x.yaml: bootstrap-config and config file x.yaml: initial-cluster are the same option and have different values, ` +
				`"default=http://localhost:1" and "default=http://localhost:2"`},

		// Combinations.
		{name: "election below five heartbeats", args: "-election-timeout 15", want: "15ms is below 5 × heartbeat-interval (500ms)"},
		{name: "heartbeat above a fifth", args: "--heartbeat-interval 201ms", want: "1s is below 5 × heartbeat-interval (1.005s)"},
		{name: "election too long", args: "--election-timeout 50001", want: "election-timeout 50.001s is above 50s"},
		{name: "heartbeat too short", args: "--heartbeat-interval 10us", want: "heartbeat-interval 10µs is below 1ms"},
		{name: "https for clients", args: "-listen-client-urls https://0.0.0.0:4001", want: "https needs --cert-file and --key-file"},
		{name: "https for peers", args: "--listen-peer-urls https://localhost:7001", want: "https needs --peer-cert-file and --peer-key-file"},

		// What a daemon starts as and from.
		{name: "cluster state", args: "--initial-cluster-state old", want: `--initial-cluster-state: invalid value "old": must be new or existing`},
		{name: "proxy is a word", args: "--proxy maybe", want: `--proxy: invalid value "maybe": must be off, readonly or on`},
		{name: "proxy without members", env: "DEIMOS_PROXY=readonly",
			want: "--proxy readonly needs --bootstrap-config, --discovery or --discovery-srv to find the members"},
		{name: "fallback is a word", args: "--discovery-fallback stop", want: `--discovery-fallback: invalid value "stop": must be proxy or exit`},
		{name: "discovery without directory", args: "--discovery http://reg:4001/keys",
			want: `--discovery: invalid value "http://reg:4001/keys": the path of a discovery URL is /keys/ or /v2/keys/ and the key of a directory`},
		{name: "discovery beside a list", args: "--discovery http://reg:4001/v2/keys/d/1", env: "DEIMOS_INITIAL_CLUSTER=default=http://localhost:1",
			want: "--discovery and --bootstrap-config both say who the first members are: leave one of them out"},
		{name: "records of no domain", file: "discovery-srv: a/b",
			want: `config file x.yaml: discovery-srv: invalid value "a/b": a domain is labels of letters, digits, dashes and underscores with dots between`},
		{name: "records of two labels", args: "--discovery-srv-name a.b",
			want: `--discovery-srv-name: invalid value "a.b": a label is up to 63 letters, digits, dashes and underscores, without a dash at either end`},
		{name: "records by half", args: "--discovery-srv-name a", want: "--discovery-srv-name needs --discovery-srv"},
		{name: "recovery of a proxy", args: "--force-new-cluster --proxy on --bootstrap-config a=http://localhost:1",
			want: "--force-new-cluster starts from the data directory alone: leave out --proxy"},

		// Certificates and secrets.
		{name: "certificate by half", args: "--cert-file a", want: "--cert-file needs --key-file"},
		{name: "certificate by half in the file", file: "peer-cert-file: a", want: "--peer-cert-file needs --peer-key-file"},
		{name: "authority alone", env: "DEIMOS_PEER_TRUSTED_CA_FILE=a", want: "--peer-ca-file needs --peer-cert-file and --peer-key-file"},
		{name: "certificate and http", args: "--cert-file a --key-file b --listen-client-urls http://localhost:1",
			want: "--cert-file needs https URLs to listen on: change http://localhost:1 in listen-client-urls to https, or leave out --cert-file"},
		{name: "two sources of a certificate", args: "--auto-tls --cert-file a --key-file b",
			want: "--auto-tls makes a certificate of its own: leave out --cert-file and --key-file, or --auto-tls"},
		{name: "switch of TLS", args: "--auto-tls=no", want: `--auto-tls: invalid value "no": must be true or false`},
		{name: "alias of an authority differs", args: "--ca-file a --trusted-ca-file b",
			want: `--ca-file and --trusted-ca-file are the same option and have different values, "a" and "b"`},
		{name: "empty name of a certificate", args: "--peer-allowed-names a,,b",
			want: `--peer-allowed-names: invalid value "a,,b": a name is not empty`},
		{name: "control character in a path", file: `peer-secret-file: "a\tb"`,
			want: `config file x.yaml: peer-secret-file: invalid value "a\tb": must not have control characters`},

		// The file.
		{name: "missing file", args: "--config-file gone.yaml", want: "config file gone.yaml: no such file or directory"},
		{name: "file from the environment", env: "DEIMOS_CONFIG_FILE=gone.yaml", want: "config file gone.yaml: no such file or directory"},
		{name: "directory", args: "--config-file .", want: "config file .: is a directory"},
		{name: "unknown name", file: "nmae: n1", want: `config file x.yaml: unknown name "nmae", did you mean name?`},
		{name: "unlike any name", file: "port: 1", want: `config file x.yaml: unknown name "port"`},
		{name: "file in a file", file: "config-file: y.yaml", want: `config file x.yaml: unknown name "config-file"`},
		{name: "version in a file", file: "version: true", want: `config file x.yaml: unknown name "version"`},
		{name: "not YAML", file: "a: b: c", want: "config file x.yaml: not YAML: mapping values are not allowed in this context"},
		{name: "a list", file: "- name", want: "config file x.yaml: not a mapping of names to values"},
		{name: "two documents", file: "name: a\n---\nname: b", want: "config file x.yaml: more than one YAML document"},
		{name: "name twice", file: "name: a\nname: b", want: "config file x.yaml: name is given twice"},
		{name: "list for one value", file: "name: [a]", want: "config file x.yaml: name: needs a plain value"},
		{name: "mapping for a list", file: "cors: {a: b}", want: "config file x.yaml: cors: needs a list or a comma-separated text"},
		{name: "list in a list", file: "cors: [[a]]", want: "config file x.yaml: cors: the items of a list are plain values"},
		{name: "endless file", file: strings.Repeat("#", configFileMaxBytes+1), want: "config file x.yaml: larger than 1 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := configFileArgs(t, words(tt.args), tt.file)
			_, err := parse(args, words(tt.env))
			if err == nil || err.Error() != tt.want {
				t.Errorf("parse(%q, %q) = %v, want %s", args, tt.env, err, tt.want)
			}
			if _, ok := errors.AsType[*daemon.UsageError](err); !ok {
				t.Errorf("parse(%q, %q) fails with a %T, want a *daemon.UsageError", args, tt.env, err)
			}
		})
	}
}

// configFileArgs writes the file into an empty working directory and names it
// on the command line.
func configFileArgs(t *testing.T, args []string, file string) []string {
	t.Helper()
	t.Chdir(t.TempDir())
	if file == "" {
		return args
	}
	if err := os.WriteFile("x.yaml", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(args, "--config-file", "x.yaml")
}

func TestParseTakesTheStrongestLevel(t *testing.T) {
	name := func(s *settings) any { return s.config.Name }
	timeout := func(s *settings) any { return s.config.Timing.Request }
	clients := func(s *settings) any { return s.config.URLs.ListenClient }
	cors := func(s *settings) any { return s.config.CORS }
	discovered := func(s *settings) any { return fmt.Sprintf("%+v", s.config.Discovery) }
	for _, tt := range []struct {
		name      string
		args, env string
		file      string
		got       func(*settings) any
		want      string
	}{
		{name: "nothing is set", got: name, want: ""},
		{name: "two dashes", args: "--name n1", got: name, want: "n1"},
		{name: "one dash", args: "-name n1", got: name, want: "n1"},
		{name: "one dash and equals sign", args: "-name=n1", got: name, want: "n1"},
		{name: "equals sign in the value", args: "--initial-cluster-token=a=b",
			got: func(s *settings) any { return s.config.InitialClusterToken }, want: "a=b"},
		{name: "the last flag counts", args: "--name n1 --name n2", got: name, want: "n2"},
		{name: "variable", env: "DEIMOS_NAME=n1", got: name, want: "n1"},
		{name: "empty variable is unset", env: "DEIMOS_NAME= DEIMOS_TIMEOUT=", got: name, want: ""},
		{name: "empty variable gives way to the file", env: "DEIMOS_NAME=", file: "name: n3", got: name, want: "n3"},
		{name: "file", file: "name: n3", got: name, want: "n3"},
		{name: "file over default", file: "timeout: 7s", got: timeout, want: "7s"},
		{name: "variable over file", env: "DEIMOS_TIMEOUT=6s", file: "timeout: 7s", got: timeout, want: "6s"},
		{name: "flag over variable", args: "--timeout 5500ms", env: "DEIMOS_TIMEOUT=6s", got: timeout, want: "5.5s"},
		{name: "flag over file", args: "--timeout 5500ms", file: "timeout: 7s", got: timeout, want: "5.5s"},
		{name: "alias flag over variable", args: "--request-timeout 4s", env: "DEIMOS_TIMEOUT=6s", got: timeout, want: "4s"},
		{name: "alias that agrees", args: "--request-timeout 4s --timeout 4000ms", got: timeout, want: "4s"},
		{name: "alias in the file", file: "request-timeout: 4s", got: timeout, want: "4s"},
		{name: "file named by a flag over one named by a variable", args: "--config-file x.yaml", env: "DEIMOS_CONFIG_FILE=gone.yaml",
			file: "name: n3", got: name, want: "n3"},
		{name: "empty file", file: "# nothing\n", got: name, want: ""},
		{name: "null file", file: "~\n", got: name, want: ""},
		{name: "null key is unset", file: "name:\ntimeout: 7s", got: timeout, want: "7s"},
		{name: "anchor in the file", file: "name: &n n3\ninitial-cluster-token: *n",
			got: func(s *settings) any { return s.config.InitialClusterToken }, want: "n3"},
		{name: "bare integer is milliseconds", args: "--heartbeat-interval 50 --election-timeout 500",
			got: func(s *settings) any { return []any{s.config.Timing.Heartbeat, s.config.Timing.Election} }, want: "[50ms 500ms]"},
		{name: "integer of the file is milliseconds", file: "election-timeout: 2000",
			got: func(s *settings) any { return s.config.Timing.Election }, want: "2s"},
		{name: "duplicate URLs are dropped", args: "--listen-client-urls http://localhost:1,http://LocalHost:01,http://localhost:2",
			got: clients, want: "[http://localhost:1 http://localhost:2]"},
		{name: "port 0 may be listened on", args: "--listen-client-urls http://127.0.0.1:0", got: clients, want: "[http://127.0.0.1:0]"},
		{name: "IPv6", args: "--listen-client-urls http://[::1]:4001", got: clients, want: "[http://[::1]:4001]"},
		{name: "YAML list", file: "listen-client-urls:\n  - http://localhost:1\n  - http://localhost:2", got: clients,
			want: "[http://localhost:1 http://localhost:2]"},
		{name: "comma text in YAML", file: "listen-client-urls: http://localhost:1, http://localhost:2", got: clients,
			want: "[http://localhost:1 http://localhost:2]"},
		{name: "empty flag clears cors", args: "--cors=", env: "DEIMOS_CORS=*", got: cors, want: "[]"},
		{name: "cors", args: "--cors http://Good.example,https://b.example:8443", got: cors, want: "[http://good.example https://b.example:8443]"},
		{name: "repeated name collects URLs", args: "--name b --bootstrap-config b=http://localhost:1,a=http://localhost:2,b=http://localhost:3",
			got: func(s *settings) any { return s.config.Bootstrap }, want: "[{b [http://localhost:1 http://localhost:3]} {a [http://localhost:2]}]"},
		{name: "bool without value", args: "--insecure-peers", got: func(s *settings) any { return s.config.InsecurePeers }, want: "true"},
		{name: "bool with value", args: "--insecure-peers=false", env: "DEIMOS_INSECURE_PEERS=true",
			got: func(s *settings) any { return s.config.InsecurePeers }, want: "false"},
		{name: "trusted network", args: "--name n1 --initial-cluster n1=http://10.0.0.1:7001 --insecure-peers",
			got: func(s *settings) any { return s.config.Bootstrap }, want: "[{n1 [http://10.0.0.1:7001]}]"},
		{name: "log level", args: "--log-level warn", got: func(s *settings) any { return s.logLevel }, want: "WARN"},
		{name: "log format", got: func(s *settings) any { return s.logFormat }, want: "text"},
		{name: "limits", args: "--max-value-bytes 8388608 --history-events 1 --history-bytes 2 --snapshot-count 3 --max-snapshots 4 --max-wals 5",
			got: func(s *settings) any { return s.config.Limits }, want: "{3 4 5 8388608 1 2}"},
		{name: "unknown variables are collected", env: "DEIMOS_PORT=tcp://1.2.3.4:5 DEIMOS_name=n1 DEIMOS_HELP=1 DEIMOS_ENDPOINTS=http://n1:4001 DEIMOS_KEY=k HOME=/",
			got: func(s *settings) any { return s.unknownEnv }, want: "[DEIMOS_HELP DEIMOS_PORT DEIMOS_name]"},
		{name: "asking for what is the default", args: "--proxy off --initial-cluster-state new --discovery-fallback proxy --cert-file=",
			got: name, want: ""},
		{name: "proxy switched off", args: "--proxy off", env: "DEIMOS_PROXY=on",
			got: func(s *settings) any { return s.config.Proxy }, want: "off"},
		{name: "proxy", args: "--name p --proxy=on --initial-cluster n1=http://10.0.0.1:7001",
			got: func(s *settings) any { return s.config.Bootstrap }, want: "[{n1 [http://10.0.0.1:7001]}]"},
		{name: "member that joins", args: "--name b --initial-cluster-state existing --initial-cluster a=http://localhost:1,b=http://localhost:2",
			got: func(s *settings) any { return s.config.InitialClusterState }, want: "existing"},
		{name: "recovery", args: "-force-new-cluster", got: func(s *settings) any { return s.config.ForceNewCluster }, want: "true"},
		{name: "discovery", args: "--discovery http://reg:4001/v2/keys/d/1 --discovery-fallback exit", got: discovered,
			want: "{URL:http://reg:4001/v2/keys/d/1 Fallback:exit SRV: SRVName:}"},
		{name: "discovery switched off", args: "--discovery=", env: "DEIMOS_DISCOVERY=http://reg:4001/keys/d", got: discovered,
			want: "{URL: Fallback: SRV: SRVName:}"},
		{name: "records", file: "discovery-srv: example.com\ndiscovery-srv-name: blue", got: discovered,
			want: "{URL: Fallback: SRV:example.com SRVName:blue}"},
		{name: "TLS for clients", args: "--cert-file c --key-file k", env: "DEIMOS_TRUSTED_CA_FILE=a", file: "allowed-names: [x.example, y]",
			got:  func(s *settings) any { return fmt.Sprintf("%+v", s.config.ClientTLS) },
			want: "{CertFile:c KeyFile:k CAFile:a Auto:false AllowedNames:[x.example y]}"},
		{name: "TLS for members", args: "-peer-cert-file c -peer-key-file k", env: "DEIMOS_PEER_CA_FILE=a", file: "peer-allowed-names: n1, n2",
			got:  func(s *settings) any { return fmt.Sprintf("%+v", s.config.PeerTLS) },
			want: "{CertFile:c KeyFile:k CAFile:a Auto:false AllowedNames:[n1 n2]}"},
		{name: "automatic TLS", args: "--auto-tls", env: "DEIMOS_PEER_AUTO_TLS=1",
			got: func(s *settings) any { return []any{s.config.ClientTLS.Auto, s.config.PeerTLS.Auto} }, want: "[true true]"},
		{name: "secret", args: "--name n1 --initial-cluster n1=http://10.0.0.1:7001 --peer-secret-file /etc/deimos/secret",
			got: func(s *settings) any { return s.config.PeerSecretFile }, want: "/etc/deimos/secret"},
		{name: "two dashes alone", args: "--name n1 --", got: name, want: "n1"},
		{name: "version before environment and file", args: "--version --config-file gone.yaml", env: "DEIMOS_TIMEOUT=soon",
			got: func(s *settings) any { return s.version }, want: "true"},
		{name: "help", args: "-h --timeout soon", got: func(s *settings) any { return s.help }, want: "true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := configFileArgs(t, words(tt.args), tt.file)
			s, err := parse(args, words(tt.env))
			if err != nil {
				t.Fatalf("parse(%q, %q) = %v, want no error", args, tt.env, err)
			}
			if got := fmt.Sprint(tt.got(s)); got != tt.want {
				t.Errorf("parse(%q, %q) sets %s, want %s", args, tt.env, got, tt.want)
			}
		})
	}
}

func TestNormalizeAddsTheSecondDash(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"-name n1", "--name n1"},
		{"--name -n1", "--name --n1"},
		{"-h", "--help"},
		{"--h -5 - -é", "--h -5 - --é"},
		{"-a -- -b", "--a -- -b"},
	} {
		args := words(tt.args)
		if diff := cmp.Diff(words(tt.want), normalize(args)); diff != "" {
			t.Errorf("normalize(%q) differs from want (-want +got):\n%s", tt.args, diff)
		}
		if !slices.Equal(args, words(tt.args)) {
			t.Errorf("normalize(%q) changed its argument to %q", tt.args, args)
		}
	}
}

func FuzzParseCommandLine(f *testing.F) {
	for _, seed := range []string{
		"", "--name n1", "-election-timeout 15", "--bootstrap-config a=http://localhost:1,a=http://[::1]:2",
		"--cors *", "--discovery http://reg:4001/keys/a", "---", "-- x", "--timeout=5s --request-timeout 6s", "-h", "--version=0",
		"--auto-tls no", "--peer-cert", "--peer-allowed-names a,b", "--proxy on --initial-cluster a=http://10.0.0.1:1",
	} {
		f.Add(seed, "NAME=n1")
	}
	f.Fuzz(func(t *testing.T, args, variable string) {
		list := slices.DeleteFunc(words(args), func(arg string) bool { return strings.Contains(arg, "config-file") })
		env := []string{envPrefix + variable}
		if strings.HasPrefix(variable, "CONFIG_FILE") {
			env = nil
		}
		s, err := parse(list, env)
		checkOutcome(t, s, err)
	})
}

func FuzzParseConfigFile(f *testing.F) {
	for _, seed := range []string{
		"", "~", "name: n1", "name: &a n1\ninitial-cluster-token: *a", "cors: [http://a.example, '*']", "timeout: 5", "? [a]\n: b",
		"name: a\n---\nname: b", "listen-client-urls:\n- http://localhost:0\n", "<<: {name: a}", "a: b: c", "cors: &a [*a]", "!!binary x: y",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &settings{}
		level, err := parseConfigFile("config file x.yaml", data, index(s.options()))
		if err == nil {
			err = applyLevel(level)
		}
		checkOutcome(t, s, err)
	})
}

// checkOutcome wants either settings or a usage error of one line.
func checkOutcome(t *testing.T, s *settings, err error) {
	t.Helper()
	if err == nil {
		if s == nil {
			t.Error("parse() = nil, nil")
		}
		return
	}
	if _, ok := errors.AsType[*daemon.UsageError](err); !ok {
		t.Errorf("parse() fails with a %T, want a *daemon.UsageError", err)
	}
	if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r") {
		t.Errorf("parse() fails with %q, want one line", text)
	}
}
