package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// file writes a file for a test.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// fullTTL gives lives of which some seconds are over the whole of them again.
func fullTTL(text string) string {
	text = regexp.MustCompile(`"ttl":3[56]\d\d\b`).ReplaceAllString(text, `"ttl":3600`)
	return regexp.MustCompile(`"ttl":7[12]\d\d\b`).ReplaceAllString(text, `"ttl":7200`)
}

func TestWhatIsExportedCanBeImported(t *testing.T) {
	p, other := newPrompt(t), newPrompt(t)
	p.must("put", "/app/html", "<a & b>\n")
	p.must("put", "/app/empty", "")
	p.must("mkdir", "/app/dir")
	p.must("mkdir", "/app/short", "--ttl", "1h")
	p.must("put", "/app/short/x", "1", "--ttl", "2h")
	p.must("put", "/b", "2")
	exported := fullTTL(p.must("export"))
	want := `{"version": 1, "dir": "/", "nodes": [
{"key":"/app/dir","dir":true},
{"key":"/app/empty","value":""},
{"key":"/app/html","value":"<a & b>\n"},
{"key":"/app/short","dir":true,"ttl":3600},
{"key":"/app/short/x","value":"1","ttl":7200},
{"key":"/b","value":"2"}
]}
`
	if exported != want {
		t.Fatalf("deimos export = %s, want %s", exported, want)
	}
	name := file(t, exported)
	other.must("put", "/b", "old")
	other.must("put", "/mine", "stays")
	dry := "MKDIR /app/dir/\nMKDIR /app/short/\nSET /app/empty \nSET /app/html \"<a & b>\\n\"\nSET /app/short/x 1\nSET /b 2\n" +
		"6 of 6 nodes would be written, the others are there\n"
	other.steps([]step{
		{args: "import --dry-run " + name, stdout: dry},
		{args: "get /b", stdout: "old\n"},
		{args: "import " + name, stdout: "6 of 6 nodes written, the others were there\n"},
		{args: "import " + name, stdout: "0 of 6 nodes written, the others were there\n"},
		{args: "get /mine", stdout: "stays\n"},
		{args: "rm /mine", stdout: "/mine removed at index 10\n"},
	})
	if got := fullTTL(other.must("export")); got != want {
		t.Errorf("deimos export after the import = %s, want %s", got, want)
	}
	if got := other.must("export", "/b", "--indexes"); !strings.Contains(got, `{"key":"/b","value":"2","modifiedIndex":`) {
		t.Errorf("deimos export --indexes = %s, want indexes", got)
	}
}

func TestAnotherServerIsImported(t *testing.T) {
	source, target := clustertest.New(t, 1), newPrompt(t)
	p := promptOf(t, source)
	p.must("put", "/config/db", "x")
	p.must("put", "/z", "y", "--ttl", "1h")
	for _, tt := range []struct{ path, printed string }{
		{"/v2/keys/config", "1 of 1 nodes written, the others were there\n"},
		{"/v2/keys", "1 of 2 nodes written, the others were there\n"},
		{"/keys/", "0 of 2 nodes written, the others were there\n"},
	} {
		if got := target.must("import", "--from", source.URLs()[0]+tt.path); got != tt.printed {
			t.Errorf("deimos import --from %s = %q, want %q", tt.path, got, tt.printed)
		}
	}
	if got, want := fullTTL(target.must("export")), fullTTL(p.must("export")); got != want {
		t.Errorf("the target has %s, want %s", got, want)
	}
}

func TestAnImportThatFailsGoesOnLater(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/k1", "file")
	name := file(t, `{"version": 1, "dir": "/", "nodes": [{"key":"/a","value":"1"},{"key":"/k1/x","value":"2"}]}`)
	o := p.run("import", name)
	if o.code != exitFailure || !strings.Contains(o.stderr, "of 2 nodes are written, run it again for the rest: /k1 is a file") {
		t.Errorf("deimos import = %+v, want it to say what is in the way", o)
	}
	p.must("rm", "/k1")
	if got := p.must("import", name); !strings.HasSuffix(got, "of 2 nodes written, the others were there\n") {
		t.Errorf("deimos import = %q, want the rest written", got)
	}
	p.steps([]step{{args: "get /a", stdout: "1\n"}, {args: "get /k1/x", stdout: "2\n"}})
}

func TestWhatCannotBeImportedIsRefused(t *testing.T) {
	p := newPrompt(t)
	for _, tt := range []struct{ text, want string }{
		{"", "is not what deimos export writes"},
		{"hello", "is not what deimos export writes"},
		{`{"version": 1, "nodes": []} x`, "something follows"},
		{`{"version": 2, "nodes": []}`, "has version 2"},
		{`{"version": 1, "nodes": [{"key":"/a"}]}`, `"/a"`},
		{`{"version": 1, "nodes": [{"key":"/a","value":"x","dir":true}]}`, `"/a"`},
		{`{"version": 1, "nodes": [{"key":"/","dir":true}]}`, `"/"`},
		{`{"version": 1, "nodes": [{"key":"","value":"x"}]}`, "the key is empty"},
		{`{"version": 1, "nodes": [{"key":"/a","value":"x","ttl":-1}]}`, `"/a"`},
	} {
		if o := p.run("import", file(t, tt.text)); o.code == exitOK || !strings.Contains(o.stderr, tt.want) {
			t.Errorf("deimos import of %s = %+v, want %q", tt.text, o, tt.want)
		}
	}
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"import", exitUsage, "needs a FILE or --from"},
		{"import x --from http://127.0.0.1:1/keys", exitUsage, "only one of them"},
		{"import --from 127.0.0.1", exitUsage, "is not a URL"},
		{"import --from http://127.0.0.1:1/", exitUsage, "begins neither with"},
		{"import --from http://127.0.0.1:1/v2/keysx", exitUsage, "begins neither with"},
		{"import --from http://127.0.0.1:1/v2/keys", exitConnect, "read http://127.0.0.1:1/v2/keys: no endpoint answers"},
		{"import /nowhere/file", exitFailure, "/nowhere/file"},
		{"export /nowhere", exitKey, "/nowhere does not exist"},
	} {
		if o := p.run(strings.Fields(tt.args)...); o.code != tt.code || !strings.Contains(o.stderr, tt.want) {
			t.Errorf("deimos %s = %+v, want code %d and %q", tt.args, o, tt.code, tt.want)
		}
	}
}

func TestConfigurationFilesAreAppliedAndShown(t *testing.T) {
	p := newPrompt(t)
	yaml := file(t, "db:\n  host: 10.0.0.7\n  port: 5432\nname: it's\n")
	json := file(t, `{"db": {"host": "10.0.0.8", "port": 5432}, "new": true}`)
	p.steps([]step{
		{args: "config show /app", code: 4, stderr: "/app does not exist"},
		{args: "config apply /app " + yaml + " --dry-run", stdout: "+ /app/db/host 10.0.0.7\n+ /app/db/port 5432\n+ /app/name it's\n"},
		{args: "ls"},
		{args: "config apply /app " + yaml, stdout: "+ /app/db/host 10.0.0.7\n+ /app/db/port 5432\n+ /app/name it's\n"},
		{args: "config apply /app " + yaml},
		{args: "config show /app", stdout: "db:\n  host: 10.0.0.7\n  port: \"5432\"\nname: it's\n"},
		{args: "config show /app -o json", stdout: `{"db":{"host":"10.0.0.7","port":"5432"},"name":"it's"}` + "\n"},
		{args: "config show /app -o env", stdout: "DB_HOST='10.0.0.7'\nDB_PORT='5432'\nNAME='it'\\''s'\n"},
		{args: "config apply /app " + json, stdout: "~ /app/db/host 10.0.0.7 -> 10.0.0.8\n+ /app/new true\n"},
		{args: "config apply /app " + json + " --prune", stdout: "- /app/name it's\n"},
		{args: "config show /app -o json", stdout: `{"db":{"host":"10.0.0.8","port":"5432"},"new":"true"}` + "\n"},
		{args: "config show /app/new", code: 1, stderr: "/app/new is a file, and nothing can be below it"},
	})
	p.must("put", "/app/db-host", "x")
	if o := p.run("config", "show", "/app", "-o", "env"); o.code != exitFailure || !strings.Contains(o.stderr, "are both the variable DB_HOST") {
		t.Errorf("deimos config show -o env = %+v, want it refused", o)
	}
	for _, tt := range []struct{ text, want string }{
		{"a: [1, 2]", "line 1: /app/a is a list"},
		{"a:\n", `line 1: /app/a has no value: write ""`},
		{"a: 1\na: 2\n", "line 2: /app/a is there twice"},
		{"a/b: 1\n", `line 1: "a/b" cannot be the name of a key`},
		{"..: 1\n", "cannot be the name"},
		{"a: &x {b: 1}\nc: *x\n", "line 2: /app/c is a list or an alias"},
		{"a: {", "is neither YAML nor JSON"},
		{"one value", "is no map"},
		{"--- # nothing yet\n", "is no map"},
		{"a: 1\n---\nb: 2\n", "has more than one document"},
		{"a: 1\n---\nb: {", "has more than one document"},
	} {
		if o := p.run("config", "apply", "/app", file(t, tt.text)); o.code == exitOK || !strings.Contains(o.stderr, tt.want) || o.stdout != "" {
			t.Errorf("deimos config apply of %q = %+v, want %q", tt.text, o, tt.want)
		}
	}
}

// What should have written the file may have failed.
func TestAnEmptyConfigurationFileRemovesNothing(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/app/name", "v")
	for _, text := range []string{"", "\n \n", "# nothing yet\n"} {
		for _, flags := range [][]string{nil, {"--prune"}, {"--prune", "--dry-run"}} {
			name := file(t, text)
			o := p.run(append([]string{"config", "apply", "/app", name}, flags...)...)
			want := outcome{exitUsage, "", "deimos: " + name + " is empty, and nothing was changed: an empty map is written {}\n"}
			if o != want {
				t.Errorf("deimos config apply of %q with %q = %+v, want %+v", text, flags, o, want)
			}
		}
	}
	empty := file(t, "{}\n")
	p.steps([]step{
		{args: "get /app/name", stdout: "v\n"},
		{args: "config apply /app " + empty},
		{args: "config apply /app " + empty + " --prune", stdout: "- /app/name v\n"},
		{args: "ls /app"},
	})
}
