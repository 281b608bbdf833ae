package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/marsevilspirit/deimos/internal/load"
)

// wrkScript makes the requests of package load: it is given method, prefix and
// query in the environment.
const wrkScript = `local requests, n = {}, 0
init = function(args)
  for i = 0, 9999 do
    local target = os.getenv("PREFIX") .. "/bench/k" .. string.format("%04d", i) .. os.getenv("QUERY")
    if os.getenv("METHOD") == "PUT" then
      requests[i] = wrk.format("PUT", target, {["Content-Type"] = "application/x-www-form-urlencoded"}, "value=" .. string.rep("x", 128))
    else
      requests[i] = wrk.format("GET", target)
    end
  end
end
request = function()
  n = (n + 7919) % 10000
  return requests[n]
end
`

func hasWrk() bool {
	_, err := exec.LookPath("wrk")
	return err == nil
}

func findWrk(log io.Writer) string {
	bin, err := exec.LookPath("wrk")
	if err != nil {
		fmt.Fprintln(log, "benchpeers: wrk is not installed, so there are no figures by it")
		return ""
	}
	return bin
}

var (
	wrkRate     = regexp.MustCompile(`Requests/sec: +([0-9.]+)`)
	wrkFailures = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors: .*`)
)

// runWrk returns the requests a second that wrk makes, with 64 connections in
// one thread. The keys are there.
func (b *bench) runWrk(ctx context.Context, w load.Work, system string, at *server) (float64, error) {
	script := filepath.Join(b.dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o644); err != nil {
		return 0, err
	}
	method, query := "GET", ""
	switch w {
	case load.Put:
		method = "PUT"
	case load.Get:
		query = "?quorum=true"
	case load.GetLocal:
		query = "?quorum=false"
	}
	seconds := max(1, int(b.measure.Seconds()+0.5))
	cmd := exec.CommandContext(ctx, b.wrk, "-t1", "-c64", fmt.Sprintf("-d%ds", seconds), "-s", script, at.url)
	cmd.Env = append(os.Environ(), "METHOD="+method, "QUERY="+query, "PREFIX="+prefix(system))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if failed := wrkFailures.Find(out); failed != nil {
		return 0, fmt.Errorf("wrk: %s", failed)
	}
	found := wrkRate.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("wrk: no rate in %s", bytes.TrimSpace(out))
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
