package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// repository is where the tests of this package run, from the root.
const repository = "../.."

// A change of the product that makes a mutant stale is to be seen at once, not
// when the zoo runs the next time.
func TestEveryMutantFitsTheSources(t *testing.T) {
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkshop(root, t.TempDir())
	for _, m := range zoo() {
		if _, err := w.prepare(t.Context(), &m, t.TempDir()); err != nil {
			t.Errorf("%s (%s) is stale: %v", m.id, m.name, err)
		}
	}
}

func TestEveryMutantIsComplete(t *testing.T) {
	seen := map[string]bool{}
	tests := map[string]string{} // sources of tests by package
	for _, m := range zoo() {
		if m.id == "" || m.name == "" || m.why == "" || len(m.edits) == 0 || len(m.catchers) == 0 {
			t.Errorf("mutant %q (%s) lacks something", m.id, m.name)
		}
		if seen[m.id] {
			t.Errorf("there are two mutants %s", m.id)
		}
		seen[m.id] = true
		for _, e := range m.edits {
			if e.old == e.new {
				t.Errorf("%s changes nothing in %s", m.id, e.file)
			}
		}
		for _, c := range m.catchers {
			if tests[c.pkg] == "" {
				tests[c.pkg] = testSources(t, c.pkg)
			}
			for name := range strings.SplitSeq(c.tests(), "|") {
				if !strings.Contains(tests[c.pkg], "\nfunc "+name+"(") {
					t.Errorf("%s is to be caught by %s.%s, which does not exist", m.id, c.pkg, name)
				}
			}
		}
	}
}

func TestSimulatedMutantsAreCaughtByTheSimulatorAlone(t *testing.T) {
	all := []mutant{
		{id: "M1", catchers: by("sum", "TestAdd")},
		{id: "M2", sim: true, catchers: by("sum", "TestAdd")},
	}
	got := simulated(all, 50)
	if len(got) != 1 || got[0].id != "M2" {
		t.Fatalf("simulated() = %+v, want M2 alone", got)
	}
	var runs []string
	for _, c := range got[0].catchers {
		if c.pkg != simPackage {
			t.Errorf("a catcher is in %s, want %s", c.pkg, simPackage)
		}
		runs = append(runs, strings.Join(c.args, " "))
	}
	if want := "-from=1 -seeds=20|-from=21 -seeds=20|-from=41 -seeds=10"; strings.Join(runs, "|") != want {
		t.Errorf("the simulator runs %q, want %q", runs, want)
	}
	if all[1].catchers[0].pkg != "sum" {
		t.Error("the table was changed")
	}
	if !strings.Contains(testSources(t, simPackage), "\nfunc "+simTest+"(") {
		t.Errorf("%s has no %s", simPackage, simTest)
	}
}

func testSources(t *testing.T, pkg string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(repository, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

func TestEveryNumberOfTheSpecificationHasAMutantOrAReason(t *testing.T) {
	known := map[string]bool{}
	for _, m := range zoo() {
		known[strings.TrimRight(m.id, "abcdefgh")] = true
	}
	for _, q := range notYet() {
		if known[q.id] || q.why == "" {
			t.Errorf("%s waits, without a reason or beside a mutant", q.id)
		}
		known[q.id] = true
	}
	for n := 1; n <= 50; n++ {
		if id := fmt.Sprintf("M%d", n); !known[id] {
			t.Errorf("%s has neither a mutant nor a reason to wait", id)
		}
	}
}

func TestTheSimulatorIsBlindForWhatItIsNotAskedToCatch(t *testing.T) {
	sim := map[string]bool{}
	for _, m := range zoo() {
		sim[m.id] = m.sim
	}
	for _, q := range blind() {
		if asked, known := sim[q.id]; !known || asked || q.why == "" {
			t.Errorf("%s: known %v, asked for %v, reason %q, want known, not asked for, and a reason", q.id, known, asked, q.why)
		}
	}
}

func TestPick(t *testing.T) {
	all := []mutant{{id: "M1"}, {id: "M13a", short: true}, {id: "M13b"}, {id: "M2", short: true}}
	for _, tt := range []struct {
		name, ids string
		short     bool
		want      string // the ids; "": an error
	}{
		{"all", "", false, "M1 M13a M13b M2"},
		{"one", "M2", false, "M2"},
		{"the order asked for", "m2,M1", false, "M2 M1"},
		{"a letter", "M13b", false, "M13b"},
		{"a number with letters", "M13", false, "M13a M13b"},
		{"short", "", true, "M13a M2"},
		{"short of some", "M13", true, "M13a"},
		{"unknown", "M3", false, ""},
		{"the end of a number", "M", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chosen, err := pick(all, tt.ids, tt.short)
			var ids []string
			for _, m := range chosen {
				ids = append(ids, m.id)
			}
			if got := strings.Join(ids, " "); got != tt.want && err == nil || (err != nil) != (tt.want == "") {
				t.Errorf("pick(%q, %v) = %q, %v, want %q", tt.ids, tt.short, got, err, tt.want)
			}
		})
	}
}

// sample writes a module with a product, a dependency beside it, and tests.
func sample(t *testing.T) *workshop {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":        "module sample\n\ngo 1.26\n",
		"go.sum":        "",
		"sum/sum.go":    "package sum\n\n// Add adds.\nfunc Add(a, b int) int { return a + b }\n\n// Twice doubles.\nfunc Twice(a int) int { return Add(a, a) }\n",
		"none/none.go":  "package none\n",
		"sum/t_test.go": sampleTests,
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return newWorkshop(root, t.TempDir())
}

const sampleTests = `package sum

import "testing"

func TestAdd(t *testing.T) {
	if got := Add(1, 2); got != 3 {
		t.Errorf("Add(1, 2) = %d, want 3", got)
	}
}

func TestZero(t *testing.T) {
	if Add(0, 0) != 0 {
		t.Error("0 and 0 are not 0")
	}
}

func TestWait(t *testing.T) {
	for Twice(2) != 4 {
	}
}

func TestPanic(t *testing.T) {
	_ = []int{0, 1, 2, 3, 4}[Twice(2)]
}

func TestBroken(t *testing.T) { t.Error("always") }

func TestSkipped(t *testing.T) { t.Skip("not here") }
`

func TestVerdicts(t *testing.T) {
	const add, twice = "return a + b", "return Add(a, a)"
	minus := []edit{{"sum/sum.go", add, "return a - b"}}
	thrice := []edit{{"sum/sum.go", twice, "return Add(a, Add(a, a))"}}
	w := sample(t)
	for _, tt := range []struct {
		name     string
		edits    []edit
		catchers []catcher
		want     verdict
		by       string // a regular expression
	}{
		{"a test fails", minus, by("sum", "TestAdd"), caught, `^sum\.TestAdd$`},
		{"no test notices", minus, by("sum", "TestZero"), survived, ""},
		{"the second one notices", minus, []catcher{by("sum", "TestZero")[0], by("sum", "TestAdd|TestZero")[0]}, caught, `^sum\.TestAdd$`},
		{"a panic", thrice, by("sum", "TestPanic"), caught, `^sum\.TestPanic \(it panics\)$`},
		{"two edits of one file", append(minus, edit{"sum/sum.go", twice, "return 2 * a"}), by("sum", "TestAdd"), caught, "TestAdd"},
		{"the old text is not there", []edit{{"sum/sum.go", "return a * b", "return 0"}}, by("sum", "TestAdd"), stale, ""},
		{"the old text is there twice", []edit{{"sum/sum.go", "return ", "return 1 + "}}, by("sum", "TestAdd"), stale, ""},
		{"the file is not there", []edit{{"sum/other.go", add, "return 0"}}, by("sum", "TestAdd"), stale, ""},
		{"the dependency is not there", []edit{{"example.invalid/x:x.go", add, "return 0"}}, by("sum", "TestAdd"), stale, ""},
		{"it does not build", []edit{{"sum/sum.go", add, "return a + nobody"}}, by("sum", "TestAdd"), broken, ""},
		{"the test fails anyway", minus, by("sum", "TestBroken"), unsound, ""},
		{"the test is skipped", minus, by("sum", "TestSkipped"), unsound, ""},
		{"there is no such test", minus, by("sum", "TestNothing"), unsound, ""},
		{"there are no tests", minus, by("none", "TestNothing"), unsound, ""},
		{"it hangs", thrice, []catcher{{pkg: "sum", run: "^TestWait$", limit: time.Second}}, stuck, ""},
		{"it hangs as expected", thrice, []catcher{{pkg: "sum", run: "^TestWait$", limit: time.Second, hangs: true}}, caught, `TestWait \(it hangs\)$`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := mutant{id: "X1", name: tt.name, edits: tt.edits, catchers: tt.catchers}
			r := w.try(t.Context(), &m)
			if r.verdict != tt.want || !regexp.MustCompile(tt.by).MatchString(r.by) {
				t.Errorf("try() = %v by %q, want %v by %q\n%s", r.verdict, r.by, tt.want, tt.by, r.detail)
			}
			if source, err := os.ReadFile(filepath.Join(w.root, "sum/sum.go")); err != nil || !strings.Contains(string(source), add) {
				t.Fatalf("the product was changed: %s, %v", source, err)
			}
		})
	}
}

func TestAnInterruptedMutantIsNeitherCaughtNorAlive(t *testing.T) {
	w := sample(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := mutant{id: "X1", edits: []edit{{"sum/sum.go", "a + b", "a - b"}}, catchers: by("sum", "TestAdd")}
	if r := w.try(ctx, &m); r.verdict != ended {
		t.Errorf("try() = %v, want %v", r.verdict, ended)
	}
}

func TestOutputOfACommandIsBounded(t *testing.T) {
	var b bounded
	for range 3 {
		if n, err := b.Write(make([]byte, outputMaxBytes/2+1)); n != outputMaxBytes/2+1 || err != nil {
			t.Fatalf("Write() = %d, %v, want all and no error", n, err)
		}
	}
	if b.Len() != outputMaxBytes {
		t.Errorf("%d bytes kept, want %d", b.Len(), outputMaxBytes)
	}
}

func TestProgramTellsWrongUse(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want int
	}{
		{"unknown flag", []string{"-nothing"}, exitUsage},
		{"unknown mutant", []string{"-only", "M999"}, exitUsage},
		{"an argument", []string{"M1"}, exitUsage},
		{"nothing at one time", []string{"-parallel", "0"}, exitUsage},
		{"help", []string{"-h"}, exitCaught},
		{"list", []string{"-list"}, exitCaught},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := program(t.Context(), tt.args, io.Discard, io.Discard); got != tt.want {
				t.Errorf("program(%q) = %d, want %d", tt.args, got, tt.want)
			}
		})
	}
}

func TestReportNamesTheDefectAndItsEnd(t *testing.T) {
	m := &mutant{id: "M7", name: "call the repair on every read error"}
	for _, tt := range []struct {
		name    string
		r       result
		verbose bool
		want    string
	}{
		{"caught", result{mutant: m, by: "wal.TestX", took: 3100 * time.Millisecond, detail: "said"}, false,
			"M7    call the repair on every read error … caught by wal.TestX in 3.1 s\n"},
		{"caught, verbose", result{mutant: m, by: "wal.TestX", detail: "said\nmore"}, true,
			"M7    call the repair on every read error … caught by wal.TestX in 0.0 s\n      said\n      more\n"},
		{"survived", result{mutant: m, verdict: survived}, false, "M7    call the repair on every read error … SURVIVED in 0.0 s\n"},
		{"stale", result{mutant: m, verdict: stale, detail: "where"}, false, "M7    call the repair on every read error … STALE in 0.0 s\n      where\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if report(&b, &tt.r, tt.verbose); b.String() != tt.want {
				t.Errorf("report() wrote %q, want %q", b.String(), tt.want)
			}
		})
	}
}
