package main

import (
	"strings"
	"testing"
)

func TestServicesAreRegisteredAndFound(t *testing.T) {
	p := newPrompt(t)
	p.steps([]step{{args: "services"}, {args: "services web"}, {args: "services -o json", stdout: "[]\n"}})
	watch := p.start("services", "web", "--watch")
	a := p.start("register", "web", "10.0.0.9:8080", "--metadata", "zone=a")
	watch.waitFor("added tcp 10.0.0.9:8080 zone=a\n")
	b := p.start(append([]string{"register", "web", "10.0.0.8:8080"}, shell("echo up; sleep 600")...)...)
	watch.waitFor("added tcp 10.0.0.8:8080\n")
	p.steps([]step{
		{args: "services", stdout: "web\n"},
		{args: "services web -o table", stdout: "NETWORK  ADDRESS        METADATA\ntcp      10.0.0.8:8080  \ntcp      10.0.0.9:8080  zone=a\n"},
		{args: "services web -o json", stdout: `[{"service":"web","network":"tcp","addr":"10.0.0.8:8080"},{"service":"web","network":"tcp","addr":"10.0.0.9:8080","metadata":"zone=a"}]` + "\n"},
	})
	if o := p.run("__complete", "services", "w"); o.stdout != "web\n:4\n" {
		t.Errorf("deimos __complete services w = %q, want web", o.stdout)
	}
	if code := a.stop(); code != exitOK || a.stderr.String() != "" {
		t.Errorf("deimos register = %d with stderr %q, want 0 when it is asked to end", code, a.stderr.String())
	}
	watch.waitFor("removed tcp 10.0.0.9:8080 zone=a\n")
	b.waitFor("up\n")
	if code := b.stop(); code != exitSignal+15 {
		t.Errorf("deimos register -- sleep = %d, want %d, TERM", code, exitSignal+15)
	}
	watch.waitFor("removed tcp 10.0.0.8:8080\n")
	if code := watch.stop(); code != exitOK || watch.stderr.String() != "" {
		t.Errorf("deimos services --watch = %d with stderr %q, want 0", code, watch.stderr.String())
	}
}

func TestARegistrationEndsWithItsCommand(t *testing.T) {
	p := newPrompt(t)
	if o := p.run(append([]string{"register", "web", "10.0.0.9:80"}, shell("exit 5")...)...); o.code != 5 {
		t.Errorf("deimos register -- exit 5 = %+v, want code 5", o)
	}
	p.steps([]step{{args: "services web"}})
}

func TestARegistrationThatIsReplacedEndsItsCommand(t *testing.T) {
	p := newPrompt(t)
	r := p.start(append([]string{"register", "web", "10.0.0.9:80", "--ttl", "3s"}, shell("echo up; sleep 600")...)...)
	r.waitFor("up\n")
	p.must("put", "/phobos/web/tcp@10.0.0.9:80", "mine", "--ttl", "1h")
	if code := <-r.code; code != exitLost || !strings.Contains(r.stderr.String(), "was registered by somebody else") {
		t.Errorf("deimos register = %d with stderr %q, want %d", code, r.stderr.String(), exitLost)
	}
	p.steps([]step{{args: "services web", stdout: "tcp  10.0.0.9:80  mine\n"}})
}

func TestWrongServicesAreRefused(t *testing.T) {
	p := &prompt{t, []string{envEndpoints + "=http://127.0.0.1:1"}}
	for _, args := range []string{"register", "register web", "register web 10.0.0.9", "register a/b 10.0.0.9:80", "register web 10.0.0.9:80 --",
		"register web 10.0.0.9:80 --ttl 0s", "services --watch", "services a b", "services a/b"} {
		if o := p.run(strings.Fields(args)...); o.code != exitUsage {
			t.Errorf("deimos %s = %+v, want code %d", args, o, exitUsage)
		}
	}
	p.steps([]step{
		{args: "register web 10.0.0.9:99999", code: exitUsage, stderr: `Addr "10.0.0.9:99999" has a port above 65535`},
		{args: "register web 10.0.0.9:80 --ttl 0s", code: exitUsage, stderr: "--ttl: a lease has to live: give it 30s or more, and 1s at least"},
		{args: "lock web --ttl 0s -- true", code: exitUsage, stderr: "--ttl: a lease has to live: give it 15s or more, and 2s at least"},
	})
	for _, args := range []string{"register web 10.0.0.9:80 --timeout 1s", "services web --timeout 1s", "services"} {
		if o := p.run(strings.Fields(args)...); o.code != exitConnect {
			t.Errorf("deimos %s = %+v, want code %d", args, o, exitConnect)
		}
	}
}
