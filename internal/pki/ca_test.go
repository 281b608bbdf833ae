package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

func mustCreateCA(t testing.TB, dir string) *CA {
	t.Helper()
	ca, err := CreateCA(dir, "Test CA", 0)
	if err != nil {
		t.Fatalf("CreateCA(%s) = %v", dir, err)
	}
	return ca
}

func mustIssue(t testing.TB, ca *CA, r IssueRequest) Issued {
	t.Helper()
	issued, err := ca.Issue(r)
	if err != nil {
		t.Fatalf("Issue(%+v) = %v", r, err)
	}
	return issued
}

func checkMode(t testing.TB, name string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("mode of %s = %04o, want %04o", name, got, want)
	}
}

func TestMembersOfACAProveThemselvesToEachOther(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	mustCreateCA(t, dir)
	ca, err := OpenCA(dir)
	if err != nil {
		t.Fatalf("OpenCA(%s) = %v", dir, err)
	}
	sources := make(map[string]*Source)
	for _, r := range []IssueRequest{
		{Name: "n1", Hosts: []string{"localhost", "127.0.0.1"}},
		{Name: "n2", Hosts: []string{"localhost", "127.0.0.1"}, Dir: filepath.Join(dir, "n2", "certs")},
		{Name: "alice", Usage: UsageClient},
	} {
		issued := mustIssue(t, ca, r)
		s, err := Open(Files{Cert: issued.CertFile, Key: issued.KeyFile, CA: ca.CertFile()}, Options{Port: PortPeer})
		if err != nil {
			t.Fatal(err)
		}
		sources[r.Name] = s
	}
	for _, tt := range []struct{ server, client, host, want string }{
		{"n1", "n2", "localhost", ""},
		{"n2", "n1", "127.0.0.1", ""},
		{"n1", "alice", "localhost", "remote error"},
		{"n1", "n2", "n1", "not n1"},
		{"alice", "n1", "localhost", "not valid for any names"},
	} {
		out := connect(t, sources[tt.server].ServerConfig(), dialAs(sources[tt.client], tt.host))
		checkError(t, tt.client+" calls "+tt.server+" as "+tt.host, out.client, tt.want)
	}
}

func TestACertificateOfAClientDoesNotMakeAServer(t *testing.T) {
	dir := t.TempDir()
	ca := mustCreateCA(t, dir)
	issued := mustIssue(t, ca, IssueRequest{Name: "alice", Usage: UsageClient, Hosts: []string{"localhost"}})
	s, err := Open(Files{Cert: issued.CertFile, Key: issued.KeyFile, CA: ca.CertFile()}, Options{Port: PortPeer})
	if err != nil {
		t.Fatal(err)
	}
	out := connect(t, s.ServerConfig(), dialAs(s, "localhost"))
	checkError(t, "client", out.client, "incompatible key usage")
}

func TestFilesOfACAArePrivateWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	parent := t.TempDir()
	dir, out := filepath.Join(parent, "ca"), filepath.Join(parent, "out")
	ca := mustCreateCA(t, dir)
	issued := mustIssue(t, ca, IssueRequest{Name: "n1", Hosts: []string{"n1.test"}, Dir: out})
	for _, d := range []string{dir, out} {
		checkMode(t, d, 0o700)
	}
	for _, f := range []string{ca.CertFile(), filepath.Join(dir, "ca.key"), issued.CertFile, issued.KeyFile} {
		checkMode(t, f, 0o600)
	}
}

func TestIssuedCertificatesHoldWhatWasAskedFor(t *testing.T) {
	ca := mustCreateCA(t, t.TempDir())
	before := time.Now()
	issued := mustIssue(t, ca, IssueRequest{
		Name: "n1", Hosts: []string{"N1.test", "10.0.0.1", "n1.test", "::ffff:10.0.0.1", "::1"}, Validity: dayLong,
	})
	c := issued.Certificate
	if c.Subject.CommonName != "n1" || c.IsCA || c.SerialNumber.Sign() <= 0 {
		t.Errorf("subject %s, authority %t, serial %s", c.Subject, c.IsCA, c.SerialNumber)
	}
	if want := []string{"n1.test"}; !slices.Equal(c.DNSNames, want) {
		t.Errorf("DNSNames = %q, want %q", c.DNSNames, want)
	}
	if len(c.IPAddresses) != 2 {
		t.Errorf("IPAddresses = %v, want 10.0.0.1 and ::1", c.IPAddresses)
	}
	if end := before.Add(dayLong); c.NotAfter.Before(end.Add(-time.Second)) || c.NotAfter.After(end.Add(time.Minute)) {
		t.Errorf("NotAfter = %s, want about %s", c.NotAfter, end)
	}
	stored, err := ReadCertificates(issued.CertFile)
	if err != nil || len(stored) != 1 || !bytes.Equal(stored[0].Raw, c.Raw) {
		t.Errorf("%s holds %v, %v, want the certificate", issued.CertFile, stored, err)
	}
	other := mustIssue(t, ca, IssueRequest{Name: "n2", Hosts: []string{"n2.test"}})
	if other.Certificate.SerialNumber.Cmp(c.SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
}

func TestACertificateEndsWithItsAuthority(t *testing.T) {
	clock := newClock()
	ca, err := createCA(&CA{dir: t.TempDir(), fsys: fsx.OS{}, now: clock.Now}, "CA", 10*dayLong)
	if err != nil {
		t.Fatal(err)
	}
	c := mustIssue(t, ca, IssueRequest{Name: "n1", Hosts: []string{"n1.test"}, Validity: 20 * dayLong}).Certificate
	if !c.NotAfter.Equal(ca.cert.NotAfter) || c.NotBefore.Before(ca.cert.NotBefore) {
		t.Errorf("valid from %s to %s, want within %s to %s", c.NotBefore, c.NotAfter, ca.cert.NotBefore, ca.cert.NotAfter)
	}
	clock.advance(11 * dayLong)
	_, err = ca.Issue(IssueRequest{Name: "n2", Hosts: []string{"n2.test"}})
	checkError(t, "Issue after the end of the authority", err, "ended on 2030-01-11")
}

func TestIssueRefusesBadRequests(t *testing.T) {
	dir := t.TempDir()
	ca := mustCreateCA(t, dir)
	hosts := []string{"n1.test"}
	for _, tt := range []struct {
		name    string
		request IssueRequest
		want    string
	}{
		{"no name", IssueRequest{Hosts: hosts}, "empty"},
		{"name of the authority", IssueRequest{Name: "CA", Hosts: hosts}, "authority"},
		{"path", IssueRequest{Name: "a/b", Hosts: hosts}, "'/'"},
		{"parent directory", IssueRequest{Name: "..", Hosts: hosts}, "begin"},
		{"long name", IssueRequest{Name: strings.Repeat("n", nameMax+1), Hosts: hosts}, "longer"},
		{"no host", IssueRequest{Name: "n1"}, "needs a host"},
		{"host with port", IssueRequest{Name: "n1", Hosts: []string{"n1.test:2380"}}, "without a port"},
		{"URL as host", IssueRequest{Name: "n1", Hosts: []string{"https://n1.test"}}, "URL"},
		{"usage", IssueRequest{Name: "n1", Hosts: hosts, Usage: 7}, "usage"},
		{"validity", IssueRequest{Name: "n1", Hosts: hosts, Validity: -1}, "negative"},
	} {
		_, err := ca.Issue(tt.request)
		checkError(t, tt.name, err, tt.want)
	}
	names, err := (fsx.OS{}).List(dir)
	if want := []string{"ca.crt", "ca.key"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("files = %q, %v, want %q", names, err, want)
	}
	mustIssue(t, ca, IssueRequest{Name: strings.Repeat("n", nameMax), Hosts: hosts})
}

func TestCreateCARefusesBadRequests(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	for _, tt := range []struct {
		name, common string
		validity     time.Duration
	}{
		{"no name", "", 0},
		{"control character", "a\nb", 0},
		{"long name", strings.Repeat("é", nameMax+1), 0},
		{"validity", "CA", -1},
	} {
		if _, err := CreateCA(dir, tt.common, tt.validity); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat(%s) = %v, want no directory", dir, err)
	}
}

func TestExistingFilesAreNeverOverwritten(t *testing.T) {
	for _, name := range []string{"ca.key", "ca.crt", "n1.key", "n1.crt"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, name)
			create := func() error {
				_, err := CreateCA(dir, "CA", 0)
				return err
			}
			if strings.HasPrefix(name, "n1") {
				ca := mustCreateCA(t, dir)
				create = func() error {
					_, err := ca.Issue(IssueRequest{Name: "n1", Hosts: []string{"n1.test"}})
					return err
				}
			}
			writeFile(t, file, []byte("precious"))
			before, err := (fsx.OS{}).List(dir)
			if err != nil {
				t.Fatal(err)
			}
			err = create()
			if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), file) {
				t.Errorf("error = %v, want that %s exists", err, file)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
				t.Errorf("%s holds %q, %v, want what it held", file, got, err)
			}
			if after, err := (fsx.OS{}).List(dir); err != nil || !slices.Equal(after, before) {
				t.Errorf("files = %q, %v, want %q", after, err, before)
			}
		})
	}
}

func TestAFailedWriteLeavesNoPair(t *testing.T) {
	full := syscall.ENOSPC
	for _, tt := range []struct{ op, name string }{
		{fsxtest.OpMakeDir, "out"},
		{fsxtest.OpOpen, "n1.key"},
		{fsxtest.OpCreate, "n1.key.tmp"},
		{fsxtest.OpWrite, "n1.key.tmp"},
		{fsxtest.OpSync, "n1.key.tmp"},
		{fsxtest.OpRename, "n1.key"},
		{fsxtest.OpOpen, "n1.crt"},
		{fsxtest.OpCreate, "n1.crt.tmp"},
		{fsxtest.OpWrite, "n1.crt.tmp"},
		{fsxtest.OpSync, "n1.crt.tmp"},
		{fsxtest.OpRename, "n1.crt"},
		{fsxtest.OpSyncDir, "out"},
	} {
		t.Run(tt.op+" "+tt.name, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "out")
			ca := mustCreateCA(t, dir)
			ca.fsys = &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
				if op == tt.op && filepath.Base(name) == tt.name {
					return full
				}
				return nil
			}}
			request := IssueRequest{Name: "n1", Hosts: []string{"n1.test"}, Dir: out}
			if _, err := ca.Issue(request); !errors.Is(err, full) || !strings.Contains(err.Error(), "n1") {
				t.Errorf("Issue = %v, want %v with the file", err, full)
			}
			if names, err := (fsx.OS{}).List(out); err == nil && len(names) > 0 {
				t.Errorf("left %q", names)
			}
			ca.fsys = fsx.OS{}
			mustIssue(t, ca, request)
		})
	}
}

func TestCreateCAReportsAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	faults := &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if op == fsxtest.OpSync && strings.Contains(name, "ca.crt") {
			return syscall.EIO
		}
		return nil
	}}
	if _, err := createCA(&CA{dir: dir, fsys: faults, now: time.Now}, "CA", 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("createCA = %v, want %v", err, syscall.EIO)
	}
	mustCreateCA(t, dir)
}

// The disk reports to the test when a name counts before its content is safe.
func TestIssuedFilesAreDurable(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	ca, err := createCA(&CA{dir: "ca", fsys: disk, now: time.Now}, "CA", 0)
	if err != nil {
		t.Fatal(err)
	}
	mustIssue(t, ca, IssueRequest{Name: "n1", Hosts: []string{"n1.test"}})
	if names := disk.Unsynced(); len(names) > 0 {
		t.Errorf("Unsynced() = %q, want none", names)
	}
}

func TestOpenCARefusesWhatIsNoAuthority(t *testing.T) {
	now := time.Now()
	ca := newIssuer(t, now, "CA", nil)
	cert, key := ca.issue(t, now, leaf{})
	_, otherKey := ca.issue(t, now, leaf{})
	for _, tt := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"certificate of a member", cert, key, "not that of an authority"},
		{"key of another", ca.pem(), otherKey, "does not belong"},
		{"no key", ca.pem(), nil, "no private key"},
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "ca.crt"), tt.cert)
		writeFile(t, filepath.Join(dir, "ca.key"), tt.key)
		_, err := OpenCA(dir)
		checkError(t, tt.name, err, tt.want)
	}
	dir := filepath.Join(t.TempDir(), "missing")
	_, err := OpenCA(dir)
	checkError(t, "no directory", err, filepath.Join(dir, "ca.crt"))
}

func TestSelfSignedPairIsUsedAgainWhileItWillDo(t *testing.T) {
	hosts := []string{"localhost", "127.0.0.1"}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, f Files)
		hosts  []string
		after  time.Duration
		reused bool
	}{
		{name: "nothing changed", reused: true},
		{name: "other order", hosts: []string{"127.0.0.1", "localhost"}, reused: true},
		{name: "shortly before the last 30 days", after: selfSignedValidity - selfSignedLeft - time.Second, reused: true},
		{name: "in the last 30 days", after: selfSignedValidity - selfSignedLeft},
		{name: "clock set back", after: -dayLong},
		{name: "another name", hosts: []string{"n1.test", "127.0.0.1"}},
		{name: "another address", hosts: []string{"localhost", "127.0.0.2"}},
		{name: "one more host", hosts: []string{"localhost", "127.0.0.1", "::1"}},
		{name: "one host less", hosts: []string{"localhost"}},
		{name: "key lost", change: func(t *testing.T, f Files) {
			if err := os.Remove(f.Key); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "certificate garbled", change: func(t *testing.T, f Files) { writeFile(t, f.Cert, []byte("hello")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := newClock()
			dir := filepath.Join(t.TempDir(), "auto")
			f, err := selfSigned(fsx.OS{}, dir, hosts, clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			old := serial(t, f.Cert)
			if tt.change != nil {
				tt.change(t, f)
			}
			wanted := hosts
			if tt.hosts != nil {
				wanted = tt.hosts
			}
			clock.advance(tt.after)
			if f, err = selfSigned(fsx.OS{}, dir, wanted, clock.Now()); err != nil {
				t.Fatal(err)
			}
			if got := serial(t, f.Cert) == old; got != tt.reused {
				t.Errorf("the pair was used again: %t, want %t", got, tt.reused)
			}
			r := newRig()
			r.clock = clock
			s := r.open(t, f, PortPeer)
			out := connect(t, s.ServerConfig(), dialAs(s, "anything.test"))
			checkError(t, "client", out.client, "")
			pool := x509.NewCertPool()
			pool.AddCert(s.current.Load().pair.Leaf)
			if err := s.verifyChain([]*x509.Certificate{s.current.Load().pair.Leaf}, pool); err != nil {
				t.Errorf("a client that was given the certificate refuses it: %v", err)
			}
			checkMode(t, dir, 0o700)
			checkMode(t, f.Key, 0o600)
		})
	}
}

func TestSelfSignedReportsWhatItCannotDo(t *testing.T) {
	dir := t.TempDir()
	if _, err := SelfSigned(dir, nil); err == nil {
		t.Error("SelfSigned without hosts: no error")
	}
	_, err := SelfSigned(dir, []string{"localhost:2379"})
	checkError(t, "SelfSigned with a port", err, "localhost:2379")

	file := filepath.Join(dir, "file")
	writeFile(t, file, nil)
	_, err = SelfSigned(filepath.Join(file, "auto"), []string{"localhost"})
	checkError(t, "SelfSigned below a file", err, file)

	faults := &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, _ string) error {
		if op == fsxtest.OpSync {
			return syscall.EIO
		}
		return nil
	}}
	if _, err := selfSigned(faults, dir, []string{"localhost"}, time.Now()); !errors.Is(err, syscall.EIO) {
		t.Errorf("selfSigned = %v, want %v", err, syscall.EIO)
	}
}

func TestCheckHost(t *testing.T) {
	for _, tt := range []struct {
		host string
		ok   bool
	}{
		{"localhost", true}, {"n1.example.test", true}, {"n_1", true}, {"1a", true}, {"*.example.test", true},
		{"10.0.0.1", true}, {"::1", true}, {"::ffff:10.0.0.1", true},
		{strings.Repeat("a", labelMax), true}, {strings.Repeat("a", labelMax+1), false},
		{strings.Repeat("a.", hostMax/2) + "a", true}, {strings.Repeat("a.", hostMax/2) + "aa", false},
		{"", false}, {"*", false}, {"*.*.test", false}, {"a..b", false}, {"a.", false}, {"-a", false}, {"a-", false},
		{"a b", false}, {"bücher.test", false}, {"10.0.0", false}, {"10.0.0.256", false}, {"fe80::1%eth0", false},
		{"[::1]", false}, {"a:1", false}, {"https://a", false}, {"a/b", false}, {"a@b", false},
	} {
		if err := CheckHost(tt.host); (err == nil) != tt.ok {
			t.Errorf("CheckHost(%q) = %v, want an error: %t", tt.host, err, !tt.ok)
		}
	}
}

func FuzzHostsOfACertificateVerify(f *testing.F) {
	for _, host := range []string{"localhost", "a.b", "10.0.0.1", "::1", "*.a", "0x1", "1.a", "A", "_a", "a_b.c"} {
		f.Add(host)
	}
	key := newKey(f)
	f.Fuzz(func(t *testing.T, host string) {
		if CheckHost(host) != nil {
			return
		}
		template := &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
		setHosts(template, []string{host})
		der, err := sign(template, nil, key, key)
		if err != nil {
			t.Fatalf("sign for %q = %v", host, err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("certificate for %q: %v", host, err)
		}
		if err := c.VerifyHostname(strings.Replace(host, "*", "x", 1)); err != nil {
			t.Errorf("VerifyHostname(%q) = %v", host, err)
		}
	})
}
