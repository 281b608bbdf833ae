package lane

import "net/http"

// Handler answers requests in two ways: by ServeHTTP, in a goroutine that waits
// until the answer is complete, and step by step, by a [Call] for which nobody
// waits. Both give the same answer. The second one is what lets one goroutine
// answer many connections.
type Handler interface {
	http.Handler
	// Open begins a call for a request whose body has arrived. It does nothing
	// yet. w and r are the call's until its end. resume may be called from any
	// goroutine until then, not later, and does not block.
	Open(w http.ResponseWriter, r *http.Request, resume func()) Call
}

// Call is a request that is answered step by step.
type Call interface {
	// Next takes the next step, and returns what has become of the call. If quick
	// is set, it neither waits nor works for long, and returns [Slow] instead.
	// A panic of Next means what it means in ServeHTTP.
	Next(quick bool) State
}

// HeadWriter is the [http.ResponseWriter] that a handler gets here. By it the
// answers that are given most often go without a map of their header fields. It
// bounds the time that a client takes for an answer, where the handler does not.
type HeadWriter interface {
	http.ResponseWriter
	// WriteHead is WriteHeader for an answer with further header fields, as they
	// are sent: each ends with CRLF, and Content-Length is among them. They are
	// copied.
	WriteHead(status int, fields []byte)
}

// State is what has become of a call.
type State int

// The states of a call.
const (
	// Done: the answer is complete. The call must not be used any more, nor its
	// resume called.
	Done State = iota
	// Paused: once resume has been called, which it will be, Next has to be.
	Paused
	// Slow: what comes next takes time, and Next has to be called with quick unset,
	// on a goroutine that can wait. It returns Done or Streaming then.
	Slow
	// Streaming: what was written is to be sent. Next has to be called whenever
	// resume has been, and once the request's context has ended, for which the
	// client's leaving is a reason. It may be called without need too.
	Streaming
)
