package discovery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

// The bounds on what a directory may cost.
const (
	// answerMaxBytes bounds the body of one answer. It has room for the
	// registrations of some thousand members.
	answerMaxBytes = 1 << 20
	// redirectsMax bounds the redirects followed by one read.
	redirectsMax = 3
	// requestTimeout bounds everything but the wait for a change.
	requestTimeout = 15 * time.Second
	// waitTimeout bounds the wait for a change, in case that the connection has
	// died without a sign. It is above the five minutes after which servers end
	// such a wait.
	waitTimeout = 6 * time.Minute
)

// configElement is the child of a directory that is no registration.
const configElement = "_config"

// directory speaks to the cluster that holds the registrations.
type directory struct {
	url    string // without a slash at the end
	client *http.Client
	own    bool // client was made here
	log    *slog.Logger
}

func newDirectory(dirURL string, client *http.Client, log *slog.Logger) *directory {
	d := &directory{url: strings.TrimSuffix(dirURL, "/"), log: log}
	if client == nil {
		d.own = true
		client = &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: requestTimeout}).DialContext,
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: requestTimeout,
		}}
	}
	c := *client
	c.Timeout = 0 // waits take minutes; every request has a deadline of its own
	c.CheckRedirect = checkRedirect
	d.client = &c
	return d
}

// checkRedirect follows a read to another place of the same scheme. What it
// does not follow is handed to the caller as the answer.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if via[0].Method != http.MethodGet || len(via) > redirectsMax || r.URL.Scheme != via[0].URL.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

func (d *directory) close() {
	if d.own {
		d.client.CloseIdleConnections()
	}
}

func (d *directory) keyURL(name string) string { return d.url + "/" + name }

// size reads how many members the cluster is to have.
func (d *directory) size(ctx context.Context) (int, error) {
	key := d.keyURL(configElement + "/size")
	a, err := d.read(ctx, key+"?"+deimos.ParamQuorum+"=true")
	if r := refusal(err); r.status == http.StatusNotFound {
		return 0, fmt.Errorf("%w: %w", ErrSizeNotFound, r)
	}
	if err != nil {
		return 0, err
	}
	node, err := a.node()
	if err != nil {
		return 0, err
	}
	if node.Value == nil {
		return 0, fmt.Errorf("%w: %s is a directory", ErrSizeBad, key)
	}
	n, err := strconv.ParseUint(*node.Value, 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%w: %s is %q, not a decimal integer above 0", ErrSizeBad, key, shorten(*node.Value))
	}
	return int(n), nil
}

// listing is the state of a directory at one store index.
type listing struct {
	entries []entry // by created index
	index   uint64
}

func (l listing) has(id uint64) bool {
	name := deimos.FormatID(id)
	return slices.ContainsFunc(l.entries, func(e entry) bool { return e.name == name })
}

// entry is one child of a directory.
type entry struct {
	name         string
	value        string
	dir          bool
	createdIndex uint64
}

func (e entry) registration() (Registration, error) {
	if e.dir {
		return Registration{}, errors.New("it is a directory")
	}
	return parseRegistration(e.name, e.value)
}

// list reads the registrations.
func (d *directory) list(ctx context.Context) (listing, error) {
	a, err := d.read(ctx, d.url+"?"+deimos.ParamQuorum+"=true")
	if err != nil {
		return listing{}, err
	}
	node, err := a.node()
	if err != nil {
		return listing{}, err
	}
	if !node.Dir {
		return listing{}, fmt.Errorf("discovery: %s is not a directory", d.url)
	}
	l := listing{}
	if l.index, err = a.storeIndex(); err != nil {
		return listing{}, err
	}
	for _, n := range node.Nodes {
		if n == nil || path.Base(n.Key) == configElement {
			continue
		}
		e := entry{name: path.Base(n.Key), dir: n.Dir || n.Value == nil, createdIndex: n.CreatedIndex}
		if n.Value != nil {
			e.value = *n.Value
		}
		l.entries = append(l.entries, e)
	}
	slices.SortFunc(l.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.createdIndex, b.createdIndex), cmp.Compare(a.name, b.name))
	})
	return l, nil
}

// create writes a key that must not exist. It is tried once: the caller has to
// look what became of a failed attempt.
func (d *directory) create(ctx context.Context, name, value string) error {
	form := url.Values{deimos.ParamValue: {value}}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := d.do(ctx, http.MethodPut, d.keyURL(name)+"?"+deimos.ParamPrevExist+"=false", form.Encode())
	return err
}

// waitForChange returns nil when the directory may have changed since the
// store index before waitIndex. Temporary errors are the caller's to repeat.
func (d *directory) waitForChange(ctx context.Context, waitIndex uint64) error {
	query := url.Values{
		deimos.ParamRecursive: {"true"}, deimos.ParamWait: {"true"},
		deimos.ParamWaitIndex: {strconv.FormatUint(waitIndex, 10)},
	}
	for {
		start := time.Now()
		changed, err := d.waitOnce(ctx, d.url+"?"+query.Encode())
		if changed || err != nil {
			return err
		}
		// A server that ends each wait at once must not be asked in a tight loop.
		if time.Since(start) < pauseMin {
			if err := sleep(ctx, pauseMin); err != nil {
				return fmt.Errorf("discovery: waiting for members in %s: %w", d.url, err)
			}
		}
	}
}

func (d *directory) waitOnce(parent context.Context, target string) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(parent, waitTimeout)
	defer cancel()
	a, err := d.do(ctx, http.MethodGet, target, "")
	code := refusal(err).code
	switch {
	case err == nil:
		return len(bytes.TrimSpace(a.body)) > 0, nil
	case parent.Err() == nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return true, nil // silence for longer than any server keeps it: look anew
	case code == deimos.CodeIndexCleared, code == deimos.CodeWatcherCleared:
		// What has happened is not known any more, but the state is. The pause
		// keeps a server with a short memory from being asked in a tight loop.
		if err := sleep(parent, pauseMin); err != nil {
			return false, fmt.Errorf("discovery: waiting for members in %s: %w", d.url, err)
		}
		return true, nil
	}
	return false, err
}

// read sends a GET until it is answered.
func (d *directory) read(ctx context.Context, target string) (answer, error) {
	return retry(ctx, d.log, func(ctx context.Context) (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return d.do(ctx, http.MethodGet, target, "")
	})
}

// answer is a response with status 200 or 201.
type answer struct {
	request string // method and URL, for errors
	header  http.Header
	body    []byte
}

// do sends one request. The error wraps a [*statusError] if there was an answer
// with another status, and marked as temporary if it may be gone next time. The
// end of ctx by its own deadline is temporary, too; whoever made the deadline
// knows better.
func (d *directory) do(ctx context.Context, method, target, form string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form))
	if err != nil {
		return answer{}, fmt.Errorf("discovery: %s %s: %w", method, target, err)
	}
	if form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := d.client.Do(request)
	if err != nil {
		return answer{}, sendError(ctx, fmt.Errorf("discovery: %w", err))
	}
	defer response.Body.Close()
	a := answer{request: method + " " + target, header: response.Header}
	a.body, err = io.ReadAll(io.LimitReader(response.Body, answerMaxBytes+1))
	if err != nil {
		return answer{}, sendError(ctx, fmt.Errorf("discovery: %s: reading the answer: %w", a.request, err))
	}
	if len(a.body) > answerMaxBytes {
		return answer{}, fmt.Errorf("discovery: %s: the answer is larger than %d bytes", a.request, answerMaxBytes)
	}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusCreated {
		return a, nil
	}
	err = fmt.Errorf("discovery: %w", newStatusError(a, response.StatusCode))
	if response.StatusCode >= http.StatusInternalServerError {
		return answer{}, &temporaryError{err}
	}
	return answer{}, err
}

// sendError tells failures of the network, which pass, from those that do not:
// the caller who has had enough, and a server that cannot prove who it is.
func sendError(ctx context.Context, err error) error {
	var certificate *tls.CertificateVerificationError
	if errors.Is(ctx.Err(), context.Canceled) || errors.As(err, &certificate) {
		return err
	}
	return &temporaryError{err}
}

// node reads the node of a keys answer.
func (a answer) node() (*deimos.Node, error) {
	var event deimos.Event
	if err := json.Unmarshal(a.body, &event); err != nil {
		return nil, fmt.Errorf("discovery: %s: not an answer of the keys API: %w", a.request, err)
	}
	if event.Node == nil {
		return nil, fmt.Errorf("discovery: %s: not an answer of the keys API: no node", a.request)
	}
	return event.Node, nil
}

// storeIndex reads the store index of the state that was read.
func (a answer) storeIndex() (uint64, error) {
	text := cmp.Or(a.header.Get(deimos.HeaderIndex), a.header.Get(deimos.HeaderEtcdIndex))
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("discovery: %s: not an answer of the keys API: the header %s or %s is %q",
			a.request, deimos.HeaderIndex, deimos.HeaderEtcdIndex, shorten(text))
	}
	return index, nil
}

// statusError is an answer that is no success.
type statusError struct {
	request string
	status  int
	code    deimos.Code // 0: not an error of the keys API
	text    string      // may be empty
}

func newStatusError(a answer, status int) *statusError {
	e := &statusError{request: a.request, status: status}
	var body struct {
		ErrorCode deimos.Code `json:"errorCode"`
		Message   string      `json:"message"`
		Cause     string      `json:"cause"`
	}
	switch location := a.header.Get("Location"); {
	case status/100 == 3 && location != "":
		e.text = fmt.Sprintf("the redirect to %q is not followed", shorten(location))
	case json.Unmarshal(a.body, &body) == nil && body.Message != "":
		e.code, e.text = body.ErrorCode, shorten(body.Message)
		if body.Cause != "" {
			e.text += " (" + shorten(body.Cause) + ")"
		}
	default:
		line, _, _ := strings.Cut(strings.TrimSpace(string(a.body)), "\n")
		e.text = shorten(strings.ToValidUTF8(line, ""))
	}
	return e
}

// Error implements the error interface.
func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.request, e.status, http.StatusText(e.status))
	if e.text != "" {
		text += ": " + e.text
	}
	return text
}

// refusal returns the answer that err stands for, or the zero value.
func refusal(err error) *statusError {
	var e *statusError
	if errors.As(err, &e) {
		return e
	}
	return &statusError{}
}
