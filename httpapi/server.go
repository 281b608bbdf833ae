package httpapi

import (
	"io"
	"log"
	"net/http"
	"time"

	"github.com/marsevilspirit/deimos/internal/hangup"
)

// Limits that [Server] sets, beside those of the [Handler].
const (
	// HeadTimeout is how long a client may take for a request line and headers.
	HeadTimeout = 5 * time.Second
	// IdleTimeout is how long a connection is kept for the next request.
	IdleTimeout = 2 * time.Minute
	// HeadMaxBytes limits request line and headers together.
	HeadMaxBytes = 64 << 10
)

// readAheadBytes is what net/http allows a head beyond the limit it is given.
const readAheadBytes = 4096

// Server returns a server for handler with the limits of the client port. It
// speaks HTTP/1.1 only, and passes OPTIONS requests for the whole server on to
// the handler. errorLog gets what net/http has to say about connections, which
// is what clients cause: failed handshakes above all; nil discards it. The
// caller sets its ConnState where [Conns] count, serves its listeners with it
// and shuts it down.
func Server(handler http.Handler, errorLog *log.Logger) *http.Server {
	if errorLog == nil {
		errorLog = log.New(io.Discard, "", 0)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      handler,
		Protocols:                    protocols,
		ReadHeaderTimeout:            HeadTimeout,
		IdleTimeout:                  IdleTimeout,
		MaxHeaderBytes:               HeadMaxBytes - readAheadBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     errorLog,
		ConnContext:                  hangup.ConnContext,
	}
}
