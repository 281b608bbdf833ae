package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

// explained is an error in the words of the command line; what it was is still
// there for exitCode.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }

func (e *explained) Unwrap() error { return e.err }

// explain says what an error of the client means to somebody at a prompt, and
// what to do.
func explain(c *cobra.Command, err error) error { return explainFrom(c, "--endpoints", err) }

// explainFrom is explain for a client whose endpoints another flag has named.
func explainFrom(c *cobra.Command, flag string, err error) error {
	var (
		unknown     *client.UnknownOutcomeError
		unreachable *client.NoEndpointError
		refused     *deimos.Error
		status      *client.StatusError
	)
	text := ""
	switch {
	case err == nil:
		return nil
	case isSaid(err):
		return err
	case errors.As(err, &unknown):
		text = fmt.Sprintf("it is not known whether %s was done, because %s: look before you repeat it", unknown.Op, explainUnknown(unknown))
	case errors.Is(err, deimos.ErrLeaderElection):
		text = "the cluster has no leader at the moment, and nothing was changed: try again, and see deimos health"
	case errors.As(err, &unreachable):
		text = explainUnreachable(unreachable, flag)
	case errors.As(err, &refused):
		text = explainRefusal(c, refused)
	case errors.As(err, &status) && status.Status == http.StatusNotFound && strings.Contains(status.Message, "page not found"):
		text = fmt.Sprintf("%s does not know %s: is it a member, and --prefix right?", status.Endpoint, status.Op)
	case errors.As(err, &status) && strings.Contains(status.Message, "HTTP request to an HTTPS server"):
		text = fmt.Sprintf("%s speaks TLS: use https:// in %s", status.Endpoint, flag)
	case errors.Is(err, client.ErrInvalidArgument):
		return daemon.Usagef("%s", strings.TrimSuffix(trimPackage(err), ": "+client.ErrInvalidArgument.Error()))
	case errors.Is(err, context.Canceled):
		text = "interrupted before there was an answer"
	default:
		text = trimPackage(err)
	}
	return &explained{text, err}
}

// isSaid reports whether an error is in words for the command line already.
func isSaid(err error) bool {
	_, child := errors.AsType[*childError](err)
	_, usage := errors.AsType[*daemon.UsageError](err)
	_, said := err.(*explained) // one that is wrapped is not in words yet
	return child || usage || said
}

// trimPackage returns the text of an error without the names of packages before
// it, which mean nothing at a prompt.
func trimPackage(err error) string {
	text := err.Error()
	for _, name := range []string{"lock: ", "election: ", "registry: ", "client: ", "load: ", "pki: ", "transport: "} { // outermost first
		text = strings.TrimPrefix(text, name)
	}
	return text
}

// explainUnknown says why nobody knows what became of a write: there was no
// answer, or one that leaves it open.
func explainUnknown(e *client.UnknownOutcomeError) string {
	if refused, ok := errors.AsType[*deimos.Error](e.Err); ok {
		return fmt.Sprintf("%s answered %q", e.Endpoint, refused.Cause)
	}
	if status, ok := errors.AsType[*client.StatusError](e.Err); ok {
		return fmt.Sprintf("%s answered with status %d: %q", e.Endpoint, status.Status, status.Message)
	}
	return fmt.Sprintf("%s gave no answer (%v)", e.Endpoint, e.Err)
}

func explainUnreachable(e *client.NoEndpointError, flag string) string {
	var failures []string
	for _, f := range e.Failures {
		failures = append(failures, fmt.Sprintf("%s: %v", f.Endpoint, f.Err))
	}
	return fmt.Sprintf("no endpoint answers: %s: %s", strings.Join(failures, "; "), advice(flag, e))
}

// advice says what to do when no endpoint answers: what fits the first failure
// for which there is something better than to look for a member.
func advice(flag string, errs ...error) string {
	for _, err := range errs {
		e, ok := errors.AsType[*client.NoEndpointError](err)
		if !ok {
			continue
		}
		for _, f := range e.Failures {
			if text := adviceFor(flag, f); text != "" {
				return text
			}
		}
	}
	return "is a member running there? See " + flag
}

// adviceFor returns what to do about an endpoint where there is a server with
// which no connection comes about, and nothing for others.
func adviceFor(flag string, f client.EndpointFailure) string {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		hostname  x509.HostnameError
		header    tls.RecordHeaderError
	)
	switch text := f.Err.Error(); {
	case errors.As(f.Err, &authority):
		return "name the authority of the members with --cacert"
	case errors.As(f.Err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
		return fmt.Sprintf("the certificate of %s is valid from %s on: is the clock right?", f.Endpoint, date(invalid.Cert.NotBefore))
	case errors.As(f.Err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the certificate of %s has expired on %s: the member needs a new one", f.Endpoint, date(invalid.Cert.NotAfter))
	case errors.As(f.Err, &hostname):
		return fmt.Sprintf("the certificate of %s is for other names: use one of those in %s", f.Endpoint, flag)
	case strings.Contains(text, "expired certificate"):
		return "the certificate of --cert has expired"
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"):
		return "present a certificate with --cert and --key"
	case errors.As(f.Err, &header), strings.Contains(text, "HTTP response to HTTPS"):
		return "use http:// in " + flag
	default:
		return ""
	}
}

// explainRefusal puts what the keys API answers into a sentence. The cause of
// most answers is the key, or the directory above it that is in the way.
func explainRefusal(c *cobra.Command, e *deimos.Error) string {
	key := oneLineText(e.Cause)
	switch e.Code {
	case deimos.CodeKeyNotFound:
		if c.Name() == "update" {
			return fmt.Sprintf("%s does not exist: make it with deimos create or put", key)
		}
		return fmt.Sprintf("%s does not exist", key)
	case deimos.CodeKeyExists:
		if c.Name() == "mkdir" {
			return fmt.Sprintf("%s exists already: see what it is with deimos ls", key)
		}
		return fmt.Sprintf("%s exists already: deimos put changes it, unless it is a directory", key)
	case deimos.CodeCompareFailed:
		return fmt.Sprintf("the key is not as the condition demands, and nothing was changed: %s", key)
	case deimos.CodeNotFile:
		if c.Name() == "rm" {
			return fmt.Sprintf("%s is a directory: remove it with --recursive, or with --dir if it is empty", key)
		}
		return fmt.Sprintf("%s is a directory, and only a file has a value", key)
	case deimos.CodeNotDir:
		return fmt.Sprintf("%s is a file, and nothing can be below it", key)
	case deimos.CodeDirNotEmpty:
		return fmt.Sprintf("the directory %s is not empty: --recursive removes it with all that is in it", key)
	case deimos.CodeInvalidForm:
		if strings.HasPrefix(key, "value is larger") {
			return key + ": members take more with a greater --max-value-bytes"
		}
		return fmt.Sprintf("%s: %s", e.Code, key)
	case deimos.CodeRaftInternal:
		switch e.Cause {
		case deimos.CauseDiskReserve:
			return "disk space of the members is below the reserve, and nothing was changed: make room there"
		case deimos.CauseOverloaded:
			return "the server is overloaded, and nothing was changed: try again"
		}
		return fmt.Sprintf("%s: %s", e.Code, key)
	case deimos.CodeRootReadOnly:
		return "the root can be neither written nor removed: name a key below it"
	default:
		return fmt.Sprintf("%s: %s", e.Code, key)
	}
}
