package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi/lane"
)

// Header values that all answers share. net/http only reads them.
var (
	contentJSON   = []string{"application/json"}
	contentEvents = []string{"text/event-stream"}
	contentText   = []string{"text/plain; charset=utf-8"}
	cacheNone     = []string{"no-cache"}
	sniffNone     = []string{"nosniff"}
)

const textNotAllowed = "Method Not Allowed\n"

// statusText is a cluster id and a term as header values.
type statusText struct {
	clusterID uint64
	raftTerm  uint64
	id        []string
	term      []string
	fields    string // of the two and the type of the answers with keys, as they are sent
}

// statusText returns the texts for st, which are the last ones nearly always.
func (h *Handler) statusText(st Status) *statusText {
	t := h.status.Load()
	if t == nil || t.clusterID != st.ClusterID || t.raftTerm != st.RaftTerm {
		t = &statusText{
			clusterID: st.ClusterID,
			raftTerm:  st.RaftTerm,
			id:        []string{deimos.FormatID(st.ClusterID)},
			term:      []string{strconv.FormatUint(st.RaftTerm, 10)},
		}
		t.fields = deimos.HeaderClusterID + ": " + t.id[0] + "\r\n" + deimos.HeaderEtcdClusterID + ": " + t.id[0] + "\r\n" +
			deimos.HeaderRaftTerm + ": " + t.term[0] + "\r\nContent-Type: " + contentJSON[0] + "\r\n"
		h.status.Store(t)
	}
	return t
}

// setKeysHeaders sets the headers that every answer of the keys API carries.
// A length below 0 is that of a stream: it is not sent. The map is written
// directly, because the names are canonical and the numbers share one string.
func (c *call) setKeysHeaders(index uint64, length int) {
	st := c.h.backend.Status()
	text := c.h.statusText(st)
	n := strconv.AppendUint(c.numbers[:0], index, 10)
	indexEnd := len(n)
	n = strconv.AppendUint(n, st.RaftIndex, 10)
	raftEnd := len(n)
	n = strconv.AppendInt(n, int64(length), 10)
	s := string(n)
	values := []string{s[:indexEnd], s[indexEnd:raftEnd], s[raftEnd:]}

	header := c.w.Header()
	header[deimos.HeaderIndex] = values[0:1:1]
	header[deimos.HeaderEtcdIndex] = values[0:1:1]
	header[deimos.HeaderClusterID] = text.id
	header[deimos.HeaderEtcdClusterID] = text.id
	header[deimos.HeaderRaftIndex] = values[1:2:2]
	header[deimos.HeaderRaftTerm] = text.term
	if length >= 0 {
		header["Content-Length"] = values[2:3:3]
	}
}

// appendKeysHeaders appends the same headers and the type, as they are sent.
func (c *call) appendKeysHeaders(dst []byte, index uint64, length int) []byte {
	st := c.h.backend.Status()
	number := func(name string, n uint64) {
		dst = append(dst, name...)
		dst = strconv.AppendUint(dst, n, 10)
		dst = append(dst, "\r\n"...)
	}
	number(deimos.HeaderIndex+": ", index)
	number(deimos.HeaderEtcdIndex+": ", index)
	number(deimos.HeaderRaftIndex+": ", st.RaftIndex)
	dst = append(dst, c.h.statusText(st).fields...)
	number("Content-Length: ", uint64(length))
	return dst
}

// setClusterHeaders sets the headers that every answer of the members API
// carries.
func (h *Handler) setClusterHeaders(header http.Header) {
	text := h.statusText(h.backend.Status())
	header[deimos.HeaderClusterID] = text.id
	header[deimos.HeaderEtcdClusterID] = text.id
}

// begin sends the status line and the headers. net/http itself would wait for ever
// for a client that does not take its answer.
func (c *call) begin(status int) {
	if _, bounds := c.w.(lane.HeadWriter); !bounds {
		c.setWriteDeadline(0)
	}
	c.status = status
	c.w.WriteHeader(status)
}

// write sends a part of the body. A client that is gone is no event for the
// operator.
func (c *call) write(b []byte) bool {
	if c.r.Method == http.MethodHead || len(b) == 0 {
		return true
	}
	if _, err := c.w.Write(b); err != nil {
		c.h.log.Debug("answer not sent", "path", c.r.URL.Path, "error", err)
		return false
	}
	return true
}

// sendKeys answers with the JSON that stands in the buffers.
func (c *call) sendKeys(status int, index uint64) {
	b := c.buffers
	if w, ok := c.w.(lane.HeadWriter); ok {
		b.head = c.appendKeysHeaders(b.head, index, len(b.out))
		c.status = status
		w.WriteHead(status, b.head)
	} else {
		c.setKeysHeaders(index, len(b.out))
		c.w.Header()["Content-Type"] = contentJSON
		c.begin(status)
	}
	if len(b.out) > bodyStepBytes {
		c.setWriteDeadline(len(b.out))
	}
	c.write(b.out)
}

// setWriteDeadline gives a client the same time for reading n bytes as it has
// for sending them. net/http lifts the bound after the answer.
func (c *call) setWriteDeadline(n int) {
	l := c.h.limits
	t := time.Now().Add(l.write + time.Duration(n/bodyStepBytes)*l.bodyStep)
	c.deadlineSet(http.NewResponseController(c.w).SetWriteDeadline(t))
}

// text answers in plain text. An empty body has no type.
func (c *call) text(status int, body string) {
	header := c.w.Header()
	if body != "" {
		header["Content-Type"] = contentText
		header["X-Content-Type-Options"] = sniffNone
	}
	if c.keysAnswer {
		c.setKeysHeaders(0, len(body))
	} else {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	c.begin(status)
	c.write([]byte(body))
}

// message answers with the JSON error of the endpoints beside the keys API.
func (c *call) message(status int, message string) {
	body := append(make([]byte, 0, 128), `{"message":`...)
	c.json(status, append(appendString(body, message), '}', '\n'))
}

// notAllowed answers a method that the path does not have.
func (c *call) notAllowed(allow string) {
	c.w.Header()["Allow"] = []string{allow}
	c.text(http.StatusMethodNotAllowed, textNotAllowed)
}
