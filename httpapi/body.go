package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// bodyStepBytes is the size of body that buys a slow client another
	// limits.bodyStep.
	bodyStepBytes = 16 << 10
	// bodyFirstBytes is what a body's buffer has at first, and bodyTrustBytes
	// what must have arrived before the buffer is made as large as the client
	// announces, or the limit allows.
	bodyFirstBytes = 4 << 10
	bodyTrustBytes = 256 << 10
	// pooledMaxBytes is the largest buffer that is kept for other requests.
	pooledMaxBytes = 1 << 20
)

const (
	typeURLEncoded = "application/x-www-form-urlencoded"
	typeMultipart  = "multipart/form-data"
)

var errBodyTooLarge = errors.New("body too large")

// buffers is the memory of one request.
type buffers struct {
	body  []byte
	query []byte
	head  []byte
	out   []byte
}

// trim empties the buffers and drops those that have grown too large to keep.
func (b *buffers) trim() {
	for _, p := range [...]*[]byte{&b.body, &b.query, &b.head, &b.out} {
		if cap(*p) > pooledMaxBytes {
			*p = nil
		}
		*p = (*p)[:0]
	}
}

// prepareBody decides what becomes of a body before anybody reads it.
func (c *call) prepareBody() {
	r := c.r
	if isOld(r) {
		// HTTP/1.0 knows no Transfer-Encoding, and net/http passes over it: what is
		// behind the body may be the rest of the body.
		c.closeAfter()
	}
	if r.ContentLength == 0 {
		return
	}
	// What nobody reads is drained by net/http before the answer goes out, or, if the
	// connection is to be closed, behind it; this bounds how long that can take.
	c.setReadDeadline(c.start.Add(c.h.limits.bodyBase))
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		c.closeAfter() // it means nothing, and nobody waits for it
	}
}

// isOld tells requests of HTTP/1.0.
func isOld(r *http.Request) bool { return r.ProtoMajor == 1 && r.ProtoMinor == 0 }

// closeAfter makes the answer the last one of its connection.
func (c *call) closeAfter() { c.w.Header()["Connection"] = []string{"close"} }

// parseQuery adds the parameters of the query string to the form.
func (c *call) parseQuery() *refusal {
	if c.r.URL.RawQuery == "" {
		return nil
	}
	c.buffers.query = append(c.buffers.query[:0], c.r.URL.RawQuery...)
	if err := c.form.parseURLEncoded(c.buffers.query); err != nil {
		return refuse(deimos.CodeInvalidForm, err.Error())
	}
	return nil
}

// parseBody makes the checks 3 to 6 of the contract, section 3.3, on the body
// and adds its parameters to the form.
func (c *call) parseBody() *refusal {
	size := c.r.ContentLength
	if size == 0 {
		if isOld(c.r) && c.r.Method != http.MethodDelete && c.r.Header["Content-Length"] == nil {
			// There may be one all the same, in chunks: see prepareBody.
			return &refusal{status: http.StatusLengthRequired, err: deimos.Error{
				Code: deimos.CodeInvalidForm, Cause: "a request of HTTP/1.0 needs a Content-Length",
			}}
		}
		return nil
	}
	in := bodyReader{call: c, buf: c.buffers.body[:0], limit: c.h.bodyMaxBytes()}
	defer func() { c.buffers.body = in.buf[:0] }()
	if size < 0 {
		// Only reading tells whether a body without a length is empty.
		size = in.limit
		if err := in.fill(1, size); err != nil {
			return c.bodyRefusal(err, c.h.bodyMaxBytes())
		}
		if len(in.buf) == 0 {
			c.setReadDeadline(time.Time{})
			return nil
		}
	}
	contentType, boundary, ref := formType(c.r.Header.Get("Content-Type"))
	if ref != nil {
		return ref
	}
	if size > in.limit {
		return c.bodyRefusal(errBodyTooLarge, in.limit)
	}
	if err := in.fill(in.limit+1, size); err != nil {
		return c.bodyRefusal(err, c.h.bodyMaxBytes())
	}
	c.setReadDeadline(time.Time{})
	var err error
	switch {
	case contentType == typeURLEncoded:
		err = c.form.parseURLEncoded(in.buf)
	case boundary == "":
		err = http.ErrMissingBoundary
	default:
		err = c.form.parseMultipart(in.buf, boundary)
	}
	if err != nil {
		return refuse(deimos.CodeInvalidForm, err.Error())
	}
	return nil
}

// formType makes the checks 3 and 4 on the Content-Type of a body that is not
// empty.
func formType(header string) (contentType, boundary string, ref *refusal) {
	if header == typeURLEncoded {
		return header, "", nil
	}
	var params map[string]string
	if header != "" {
		var err error
		if contentType, params, err = mime.ParseMediaType(header); err != nil {
			return "", "", refuse(deimos.CodeInvalidForm, err.Error())
		}
	}
	if contentType != typeURLEncoded && contentType != typeMultipart {
		return "", "", &refusal{
			status: http.StatusUnsupportedMediaType,
			err: deimos.Error{
				Code:  deimos.CodeInvalidForm,
				Cause: "unsupported content type " + strconv.Quote(contentType),
			},
		}
	}
	return contentType, params["boundary"], nil
}

// bodyRefusal says why a body of at most limit bytes could not be read. The
// connection is not used again: what is left of the body is still on its way.
func (c *call) bodyRefusal(err error, limit int64) *refusal {
	c.closeAfter()
	ref := refuse(deimos.CodeInvalidForm, err.Error())
	switch {
	case errors.Is(err, errBodyTooLarge):
		ref.status = http.StatusRequestEntityTooLarge
		ref.err.Cause = "body is larger than " + strconv.FormatInt(limit, 10) + " bytes"
		// net/http reads on for a while, so that the client gets to see the
		// answer before the connection closes; it need not be a long while.
		c.setReadDeadline(time.Now().Add(c.h.limits.bodyStep))
	case errors.Is(err, os.ErrDeadlineExceeded):
		ref.status = http.StatusRequestTimeout
		ref.err.Cause = "body arrived too slowly"
	}
	return ref
}

// bodyReader reads a body into one buffer that never exceeds the limit, and
// gives the client more time as more of the body arrives.
type bodyReader struct {
	call  *call
	buf   []byte
	limit int64
	steps int  // bodySteps that the client has earned
	ended bool // the body's end has been seen
}

// fill reads until the buffer holds n bytes or the body ends. size is the
// length that is expected in the end.
func (in *bodyReader) fill(n, size int64) error {
	for !in.ended && int64(len(in.buf)) < n {
		if len(in.buf) == cap(in.buf) {
			in.grow(size)
		}
		// One byte more than the limit is room enough to see that it is passed.
		room := in.buf[len(in.buf):min(int64(cap(in.buf)), in.limit+1)]
		read, err := in.call.r.Body.Read(room)
		in.buf = in.buf[:len(in.buf)+read]
		if int64(len(in.buf)) > in.limit {
			return errBodyTooLarge
		}
		if err == io.EOF {
			in.ended = true
		} else if err != nil {
			return err
		}
		if steps := len(in.buf) / bodyStepBytes; steps > in.steps && !in.ended {
			in.steps = steps
			l := in.call.h.limits
			in.call.setReadDeadline(in.call.start.Add(l.bodyBase + time.Duration(steps)*l.bodyStep))
		}
	}
	return nil
}

// grow doubles the buffer while little has arrived, then makes it as large as
// it can become, so that a body is not copied again and again.
func (in *bodyReader) grow(size int64) {
	target := int64(max(2*cap(in.buf), bodyFirstBytes))
	if size < bodyTrustBytes || len(in.buf) >= bodyTrustBytes {
		target = size + 1
	}
	target = max(min(target, in.limit+1), int64(len(in.buf))+1)
	bigger := make([]byte, len(in.buf), target)
	copy(bigger, in.buf)
	in.buf = bigger
}
