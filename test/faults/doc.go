// Package faults tests the deimos program under fault: clusters of real
// processes that are killed, stopped, cut off from each other, wiped, replaced
// and restarted while recording clients use them, and judges that say
// afterwards whether every promise was kept.
//
// Its core is a run: members whose peer links all lead through proxies, one for
// each ordered pair; clients that record what they asked and heard; watchers
// that resume; and a plan of faults drawn from a seed. The judges are porcupine
// for each key, the rules of watches, the bounds of TTLs, the members' logs
// read back from their directories, the equality of all trees, the exit codes,
// and the logs of the processes. A run that saw too little traffic, or whose
// faults were not observed to have happened, is void, and void is failed.
//
// "go test ./test/faults" is a share of it that ends within a minute. Long
// runs are asked for by flags:
//
//	go test ./test/faults -timeout 2h -run TestRuns -rounds 50 -duration 20s
//	go test ./test/faults -timeout 2h -run Killed -kills 1000
//	go test ./test/faults -timeout 2h -run Back -recoveries 50
//
// A run that fails says where its data directories, logs, history and pictures
// of histories are kept, and with which flags the same plan is run again. The
// plan is the same for the same seed; when the processes get to run is not, so
// that a failure may need several tries.
//
// The package holds tests only. Every test owns its processes and goroutines,
// ends them before it returns, and waits for conditions; real time passes by
// itself only where that is the fault.
package faults
