package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// outcome is what somebody at a prompt sees of one command.
type outcome struct {
	code           int
	stdout, stderr string
}

// prompt runs commands against a cluster.
type prompt struct {
	t   *testing.T
	env []string
}

func newPrompt(t *testing.T) *prompt {
	t.Helper()
	return promptOf(t, clustertest.New(t, 1))
}

func promptOf(t *testing.T, c *clustertest.Cluster) *prompt {
	return &prompt{t, append(os.Environ(), envEndpoints+"="+strings.Join(c.URLs(), ","))}
}

func (p *prompt) run(args ...string) outcome { return p.runContext(p.t.Context(), args...) }

func (p *prompt) runContext(ctx context.Context, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, p.env, &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// must runs a command that has to succeed, and returns what it printed.
func (p *prompt) must(args ...string) string {
	p.t.Helper()
	o := p.run(args...)
	if o.code != exitOK || o.stderr != "" {
		p.t.Fatalf("deimos %q = %d with stderr %q, want 0 without", args, o.code, o.stderr)
	}
	return o.stdout
}

// step is one command and what it has to print. Arguments are words; stderr is
// without the name of the program and the newline.
type step struct {
	args   string
	code   int
	stdout string
	stderr string
}

func (p *prompt) steps(steps []step) {
	p.t.Helper()
	for _, s := range steps {
		o := p.run(strings.Fields(s.args)...)
		want := outcome{s.code, s.stdout, ""}
		if s.stderr != "" {
			want.stderr = "deimos: " + s.stderr + "\n"
		}
		if o != want {
			p.t.Errorf("deimos %s =\n%+v, want\n%+v", s.args, o, want)
		}
	}
}

func TestKeysAreWrittenReadAndRemoved(t *testing.T) {
	newPrompt(t).steps([]step{
		{args: "put /a/b hello", stdout: "/a/b set at index 2\n"},
		{args: "get /a/b", stdout: "hello\n"},
		{args: "get a/./b/", stdout: "hello\n"},
		{args: "get /a/b --local", stdout: "hello\n"},
		{args: "get /a/b -o json", stdout: `{"action":"get","node":{"key":"/a/b","value":"hello","modifiedIndex":2,"createdIndex":2},"index":2}` + "\n"},
		{args: "get /a/b -o table", stdout: "KEY   TTL  CREATED  MODIFIED  VALUE\n/a/b  -    2        2         hello\n"},
		{args: "get /a", code: 1, stderr: "/a is a directory: list it with deimos ls"},
		{args: "get /x", code: 4, stderr: "/x does not exist"},
		{args: "create /a/b x", code: 4, stderr: "/a/b exists already: deimos put changes it, unless it is a directory"},
		{args: "update /x 1", code: 4, stderr: "/x does not exist: make it with deimos create or put"},
		{args: "update /a/b two", stdout: "/a/b updated at index 3\n"},
		{args: "put /a 1", code: 1, stderr: "/a is a directory, and only a file has a value"},
		{args: "put /a/b/c 1", code: 1, stderr: "/a/b is a file, and nothing can be below it"},
		{args: "put / 1", code: 1, stderr: "the root can be neither written nor removed: name a key below it"},
		{args: "put /n -- -1", stdout: "/n set at index 4\n"},
		{args: "get /n", stdout: "-1\n"},
		{args: "mkdir /q", stdout: "/q/ created at index 5\n"},
		{args: "mkdir /q", code: 4, stderr: "/q exists already: see what it is with deimos ls"},
		{args: "create --in-order /q job", stdout: "/q/00000000000000000006 created at index 6\n"},
		{args: "create /c 1 --ttl 1h -o table", stdout: "KEY  TTL    CREATED  MODIFIED  VALUE\n/c   3600s  7        7         1\n"},
		{args: "rm /q", code: 1, stderr: "/q is a directory: remove it with --recursive, or with --dir if it is empty"},
		{args: "rm /q --dir", code: 1, stderr: "the directory /q is not empty: --recursive removes it with all that is in it"},
		{args: "rm /q --recursive", stdout: "/q/ removed at index 8\n"},
		{args: "rm /c", stdout: "/c removed at index 9\n"},
		{args: "rm /c", code: 4, stderr: "/c does not exist"},
	})
}

func TestWritesHappenOnlyUnderTheirConditions(t *testing.T) {
	newPrompt(t).steps([]step{
		{args: "put /k 1 --prev-exist", code: 4, stderr: "/k does not exist"},
		{args: "put /k 1 --prev-exist=false", stdout: "/k created at index 2\n"},
		{args: "put /k 1 --prev-exist=false", code: 4, stderr: "/k exists already: deimos put changes it, unless it is a directory"},
		{args: "put /k 2 --prev-exist", stdout: "/k updated at index 3\n"},
		{args: "put /k 3 --prev-value 1", code: 4, stderr: "the key is not as the condition demands, and nothing was changed: [1 != 2]"},
		{args: "put /k 3 --prev-value 2 --ttl 1h", stdout: "/k set at index 4\n"},
		{args: "put /k 4 --prev-index 3", code: 4, stderr: "the key is not as the condition demands, and nothing was changed: [3 != 4]"},
		{args: "put /k 4 --prev-index 4 --prev-value 2", code: 4, stderr: "the key is not as the condition demands, and nothing was changed: [2 != 3]"},
		{args: "put /k 4 --prev-index 4 --prev-value 3", stdout: "/k set at index 5\n"},
		{args: "rm /k --prev-value 3", code: 4, stderr: "the key is not as the condition demands, and nothing was changed: [3 != 4]"},
		{args: "rm /k --prev-index 5", stdout: "/k removed at index 6\n"},
	})
}

func TestDirectoriesAreListed(t *testing.T) {
	p := newPrompt(t)
	p.steps([]step{{args: "ls"}, {args: "tree", stdout: "/\n"}})
	for _, key := range []string{"/app/db/host", "/app/db/port", "/app/name", "/app/_hidden", "/z"} {
		p.must("put", key, "v")
	}
	p.must("put", "/lines", "one\ntwo")
	p.steps([]step{
		{args: "ls", stdout: "/app/\n/lines\n/z\n"},
		{args: "ls /app", stdout: "/app/db/\n/app/name\n"},
		{args: "ls /z", stdout: "/z\n"},
		{args: "ls /app --recursive", stdout: "/app/db/\n/app/db/host\n/app/db/port\n/app/name\n"},
		{args: "ls -o table", stdout: "KEY     TTL  CREATED  MODIFIED  VALUE\n/app/   -    2        2         \n" +
			"/lines  -    7        7         \"one\\ntwo\"\n/z      -    6        6         v\n"},
		{args: "tree", stdout: "/\n├── app/\n│   ├── db/\n│   │   ├── host\n│   │   └── port\n│   └── name\n├── lines\n└── z\n"},
		{args: "ls /x", code: 4, stderr: "/x does not exist"},
	})
	var got event
	if err := json.Unmarshal([]byte(p.must("ls", "/app/db", "-o", "json")), &got); err != nil || len(got.Node.Nodes) != 2 || got.Index != 7 {
		t.Errorf("deimos ls -o json = %+v, %v, want two nodes at index 7", got, err)
	}
}

func TestWrongUseOfTheClientSendsNothing(t *testing.T) {
	// Nobody listens at this endpoint: whatever is sent would be exit code 3.
	p := &prompt{t, []string{envEndpoints + "=http://127.0.0.1:1"}}
	for _, tt := range []struct{ args, want string }{
		{"get", "deimos get needs KEY, see deimos get --help"},
		{"get /a /b", `unexpected argument "/b"`},
		{"get /a --burn", "--burn"},
		{"get /a -o yaml", "--output"},
		{"get /a --timeout 0s", "--timeout"},
		{"get /a --endpoints 127.0.0.1:4001", "--endpoints: endpoint"},
		{"get /a --prefix keys", "--prefix: "},
		{"get /a --cert x", "--cert and --key come together"},
		{"get /a --cacert /nowhere/ca.crt", "deimos: the CA file /nowhere/ca.crt cannot be read"},
		{"get /a --cacert x --insecure-skip-verify", "exclude each other"},
		{"get /" + strings.Repeat("x", 5000), "has 5001 bytes"},
		{"get " + strings.Repeat("/x", 200), "has 200 levels"},
		{"get /\xff", "is not valid UTF-8"},
		{"put /a \xff", "is not valid UTF-8"},
		{"put /a", "needs VALUE"},
		{"put /a 1 --ttl 0s", "--ttl"},
		{"put /a 1 --ttl 30", `--ttl: invalid value "30": it must be a time such as 30s or 5m, see deimos put --help`},
		{"put /a 1 --prev-index -1", `--prev-index: invalid value "-1": it must be a whole number that is not negative, see`},
		{"put /a 1 --prev-index 99999999999999999999", `--prev-index: invalid value "99999999999999999999": it is out of range, see`},
		{"put /a 1 --prev-exist=maybe", `--prev-exist: invalid value "maybe": it must be true or false, see`},
		{"put /a 1 --ttl 2562047h", "--ttl"},
		{"put /a 1 --prev-value=", "--prev-index"},
		{"put /a 1 --prev-index 0", "deimos create"},
		{"put /a 1 --prev-exist=false --prev-value x", "exclude each other"},
		{"rm /a --dir --prev-value x", "leave out --dir"},
		{"watch /a --from-index 0", "--from-index"},
		{"members", "needs one of the commands"},
		{"members burn", `no command "burn", see deimos members --help`},
		{"members lsit", "did you mean deimos members list?"},
		{"members add", "needs PEER_URL..."},
		{"members update n1", "needs PEER_URL..."},
		{"members remove", "needs MEMBER"},
		{"completion", "needs one of the commands bash, fish, powershell, zsh"},
		{"completion nope", `no command "nope"`},
		{"completion bash zsh", `unexpected argument "zsh"`},
	} {
		o := p.run(strings.Fields(tt.args)...)
		if o.code != exitUsage || !strings.Contains(o.stderr, tt.want) || strings.Count(o.stderr, "\n") != 1 || o.stdout != "" {
			t.Errorf("deimos %.80s = %+v, want code 2 and one line with %q", tt.args, o, tt.want)
		}
	}
	if o := p.run("get", ""); o.code != exitUsage {
		t.Errorf("deimos get \"\" = %+v, want code 2", o)
	}
}

func TestNoConnectionIsItsOwnExitCode(t *testing.T) {
	p := &prompt{t, nil}
	for _, args := range []string{"get /a", "put /a 1", "watch /a", "ls", "members list", "members remove n1", "health", "status"} {
		o := p.run(append(strings.Fields(args), "--endpoints", "http://127.0.0.1:1")...)
		if o.code != exitConnect || !strings.Contains(o.stderr, "is a member running there? See --endpoints") {
			t.Errorf("deimos %s = %+v, want code %d and advice", args, o, exitConnect)
		}
	}
}

func TestValuesComeFromTheInput(t *testing.T) {
	p := newPrompt(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = stdin; r.Close() }()
	if _, err := w.WriteString("one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p.must("put", "/k", "-")
	if got, want := p.must("get", "/k"), "one\ntwo\n\n"; got != want {
		t.Errorf("deimos get = %q, want %q", got, want)
	}
}

func TestFlagsThatLookLikeValuesStayValues(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/k", "--", "-1")
	p.must("put", "/k", "2", "--prev-value", "-1")
	p.must("put", "/k", "3", "-prev-value", "2")
	if got := p.must("get", "/k"); got != "3\n" {
		t.Errorf("deimos get /k = %q, want 3", got)
	}
}

func TestMembersAreListedAndChanged(t *testing.T) {
	c := clustertest.NewHTTP(t, 3)
	p := promptOf(t, c)
	c.Leader()
	table := p.must("members", "list", "-o", "table")
	for _, want := range []string{"ID ", "m1", "m2", "m3", roleLeader, roleVoter, c.URLs()[0]} {
		if !strings.Contains(table, want) {
			t.Errorf("deimos members list -o table = %q, want %q in it", table, want)
		}
	}
	p.must("members", "lead", "m2")
	var members []memberOutput
	if err := json.Unmarshal([]byte(p.must("members", "list", "-o", "json")), &members); err != nil || len(members) != 3 {
		t.Fatalf("deimos members list -o json = %+v, %v, want three", members, err)
	}
	for _, m := range members {
		if want := m.Name == "m2"; (m.Role == roleLeader) != want {
			t.Errorf("after deimos members lead m2, %s is %s", m.Name, m.Role)
		}
	}
	peer := "http://" + clustertest.FreeAddress(t)
	added := p.must("members", "add", "--learner", peer)
	id := strings.Fields(added)[1]
	p.steps([]step{
		{args: "members update " + id + " " + peer + "0", code: 1, stderr: "member " + id + ": URL must have the form host:port: " + peer + "0"},
		{args: "members remove nobody", code: 4, stderr: `there is no member "nobody": see deimos members list`},
		{args: "members promote m1", code: 1, stderr: "member m1: member " + idOf(members, "m1") + " is already a voter"},
		{args: "members remove " + id, stdout: "member " + id + " removed\n"},
	})
}

func idOf(members []memberOutput, name string) string {
	for _, m := range members {
		if m.Name == name {
			return m.ID
		}
	}
	return ""
}

func TestHealthAndStatusTellOfEachEndpoint(t *testing.T) {
	c := clustertest.New(t, 3)
	p := promptOf(t, c)
	p.must("put", "/k", "v")
	if got := p.must("health"); strings.Count(got, "healthy\n") != 3 {
		t.Errorf("deimos health = %q, want three healthy endpoints", got)
	}
	var all []statusOutput
	if err := json.Unmarshal([]byte(p.must("status", "-o", "json")), &all); err != nil || len(all) != 3 {
		t.Fatalf("deimos status -o json = %+v, %v, want three", all, err)
	}
	leaders := 0
	for _, s := range all {
		if s.State == roleLeader {
			leaders++
		}
		if s.ID == "" || s.Version == "" || s.Index < 1 || s.RaftTerm == 0 {
			t.Errorf("deimos status has %+v, want id, version, index and term", s)
		}
	}
	if leaders != 1 {
		t.Errorf("deimos status = %+v, want one leader", all)
	}
	c.Follower().Kill()
	o := p.run("health")
	if o.code != exitFailure || o.stderr != "deimos: 1 of 3 endpoints are not healthy\n" || strings.Count(o.stdout, "  healthy\n") != 2 {
		t.Errorf("deimos health with a dead member = %+v, want code 1 and two healthy", o)
	}
}

func TestTheShellIsOfferedKeysAndMembers(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/app/db", "1")
	p.must("put", "/apple", "1")
	p.must("put", "/b", "1")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"get", "/ap"}, "/app/\n/apple\n:6\n"},
		{[]string{"get", "/app/"}, "/app/db\n:4\n"},
		{[]string{"get", "/app/db", ""}, ":4\n"},
		{[]string{"members", "promote", "m"}, "m1\n:4\n"},
		{[]string{"get", "--endpoints", "http://127.0.0.1:1", "/"}, ":4\n"},
		{[]string{"get", "-o", ""}, "plain\ntable\njson\n:4\n"},
		{[]string{"get", "--out"}, "--output\tFORMAT of the output: plain, table or json\n:4\n"},
		{[]string{"--listen-c"}, "--listen-client-urls\twhere the member or proxy listens for clients\n:4\n"},
		{[]string{"--name", "n1", "-initial-cluster", "n1=http://x:1", "--vers"}, "--version\tprint the version and exit\n:4\n"},
	} {
		if o := p.run(append([]string{"__complete"}, tt.args...)...); o.stdout != tt.want {
			t.Errorf("deimos __complete %q = %q, want %q", tt.args, o.stdout, tt.want)
		}
	}
}

func TestCommandsProveThemselvesWithCertificates(t *testing.T) {
	t.Chdir(t.TempDir())
	mustCommand(t, "ca", "create")
	mustCommand(t, "ca", "issue", "n1")
	mustCommand(t, "ca", "issue", "--client", "alice")
	addr, stop := runMember(t, "--data-dir", "n1.deimos", "--listen-client-urls", "https://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0",
		"--heartbeat-interval", "10", "--election-timeout", "100",
		"--cert-file", "deimos-ca/n1.crt", "--key-file", "deimos-ca/n1.key", "--ca-file", "deimos-ca/ca.crt")
	defer stop()
	variables := &prompt{t, []string{envEndpoints + "=https://" + addr, envCACert + "=deimos-ca/ca.crt",
		envCert + "=deimos-ca/alice.crt", envKey + "=deimos-ca/alice.key"}}
	clustertest.Eventually(t, "a write", func() bool { return variables.run("put", "/k", "v").code == exitOK })
	endpoint := " --endpoints https://" + addr
	flags := &prompt{t, nil}
	flags.steps([]step{{args: "get /k --cacert deimos-ca/ca.crt --cert deimos-ca/alice.crt --key deimos-ca/alice.key" + endpoint, stdout: "v\n"}})
	for _, tt := range []struct{ args, advice string }{
		{"get /k", "name the authority of the members with --cacert"},
		{"get /k --cacert deimos-ca/ca.crt", "present a certificate with --cert and --key"},
		{"get /k --insecure-skip-verify", "present a certificate with --cert and --key"},
	} {
		o := flags.run(strings.Fields(tt.args + endpoint)...)
		if o.code != exitConnect || !strings.HasSuffix(o.stderr, tt.advice+"\n") {
			t.Errorf("deimos %s = %+v, want code %d and %q", tt.args, o, exitConnect, tt.advice)
		}
	}
	o := flags.run("get", "/k", "--endpoints", "http://"+addr)
	if o.code != exitFailure || !strings.HasSuffix(o.stderr, "use https:// in --endpoints\n") {
		t.Errorf("deimos get over http = %+v, want advice", o)
	}
}

func TestManualPagesAreWritten(t *testing.T) {
	dir := t.TempDir() + "/man1"
	p := &prompt{t, []string{envEndpoints + "=http://secret.test:1"}}
	p.must("man", dir)
	for name, want := range map[string]string{
		"deimos-lock.1":        `deimos lock NAME [flags] -- COMMAND...\fP`,
		"deimos.1":             "--bootstrap-config",
		"deimos-get.1":         "Exit codes",
		"deimos-exec-watch.1":  "DEIMOS_WATCH_KEY",
		"deimos-members-add.1": "PEER_URL",
	} {
		text, err := os.ReadFile(dir + "/" + name)
		if err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), "secret.test") {
			t.Errorf("%s = %q, %v, want %q in it and nothing of the environment", name, text, err, want)
		}
	}
	if o := p.run("man"); o.code != exitUsage {
		t.Errorf("deimos man = %+v, want code %d", o, exitUsage)
	}
}

func TestACommandLineIsTheLastOfAUsageLine(t *testing.T) {
	for _, name := range []string{"lock", "elect", "register", "exec-watch"} {
		c, _, err := newRoot(nil).Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(c.UseLine(), "]"); !strings.HasSuffix(got, "-- COMMAND...") || !strings.Contains(got, " [flags] ") {
			t.Errorf("the usage line of deimos %s = %q, want flags before the command", name, got)
		}
	}
}

func TestHelpThatCannotBePrintedIsAFailure(t *testing.T) {
	for _, args := range []string{"help", "help get", "get --help", "completion --help", "--help"} {
		var stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(args), nil, brokenWriter{}, &stderr)
		if code != exitFailure || stderr.String() != "deimos: print help: broken pipe\n" {
			t.Errorf("deimos %s = %d with stderr %q, want %d and why", args, code, &stderr, exitFailure)
		}
	}
}

func TestEveryCommandHasHelpAndAnExample(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		if c.HasParent() && !c.HasSubCommands() && (c.Short == "" || c.Long == "" || !strings.Contains(c.Example, c.CommandPath())) {
			t.Errorf("%s has short %q, long %q and example %q, want all, with its name in the example", c.CommandPath(), c.Short, c.Long, c.Example)
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 110 {
				t.Errorf("%s: the line %q is long", c.CommandPath(), line)
			}
		}
	}
	for _, c := range newRoot(nil).Commands() {
		if c.Name() != "help" {
			check(c)
		}
	}
}

func TestAWriteWithoutAnAnswerIsNotCalledAFailure(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler) // the connection breaks
	}))
	defer server.Close()
	p := &prompt{t, []string{envEndpoints + "=" + server.URL}}
	o := p.run("put", "/k", "v")
	if o.code != exitFailure || !strings.Contains(o.stderr, "it is not known whether PUT /keys/k was done") || !strings.HasSuffix(o.stderr, "look before you repeat it\n") {
		t.Errorf("deimos put = %+v, want code 1 and that the outcome is not known", o)
	}
}

func TestAClusterWithoutALeaderIsNamed(t *testing.T) {
	c := clustertest.New(t, 3)
	p := promptOf(t, c)
	p.must("put", "/k", "v")
	c.Leader().Kill()
	c.Leader().Kill()
	for _, args := range []string{"put /k v --timeout 3s", "get /k --timeout 3s"} {
		o := p.run(strings.Fields(args)...)
		if o.code != exitFailure || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("deimos %s = %+v, want code 1 and one line", args, o)
		}
	}
	if o := p.run("get", "/k", "--local"); o.stdout != "v\n" {
		t.Errorf("deimos get --local = %+v, want the value", o)
	}
	if o := p.run("members", "list"); o.code != exitOK || strings.Contains(o.stdout, roleLeader+" ") {
		t.Errorf("deimos members list = %+v, want members without a leader", o)
	}
	if o := p.run("health"); o.code != exitFailure || !strings.Contains(o.stdout, "unhealthy: it reaches no quorum") {
		t.Errorf("deimos health = %+v, want an unhealthy member", o)
	}
}
