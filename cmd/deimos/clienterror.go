package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

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
func explain(c *cobra.Command, err error) error {
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
		text = fmt.Sprintf("it is not known whether %s was done, because %s gave no answer (%v): look before you repeat it",
			unknown.Op, unknown.Endpoint, unknown.Err)
	case errors.Is(err, deimos.ErrLeaderElection):
		text = "the cluster has no leader at the moment, and nothing was changed: try again, and see deimos health"
	case errors.As(err, &unreachable):
		text = explainUnreachable(unreachable)
	case errors.As(err, &refused):
		text = explainRefusal(c, refused)
	case errors.As(err, &status) && status.Status == http.StatusNotFound && strings.Contains(status.Message, "page not found"):
		text = fmt.Sprintf("%s does not know %s: is it a member, and --prefix right?", status.Endpoint, status.Op)
	case errors.As(err, &status) && strings.Contains(status.Message, "HTTP request to an HTTPS server"):
		text = fmt.Sprintf("%s speaks TLS: use https:// in --endpoints", status.Endpoint)
	case errors.Is(err, client.ErrInvalidArgument):
		return daemon.Usagef("%s", trimClient(err))
	case errors.Is(err, context.Canceled):
		text = "interrupted before there was an answer"
	default:
		text = trimClient(err)
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

func trimClient(err error) string { return strings.TrimPrefix(err.Error(), "client: ") }

func explainUnreachable(e *client.NoEndpointError) string {
	var failures []string
	for _, f := range e.Failures {
		failures = append(failures, fmt.Sprintf("%s: %v", f.Endpoint, f.Err))
	}
	advice := "is a member running there? See --endpoints"
	var authority x509.UnknownAuthorityError
	switch text := e.Error(); {
	case errors.As(e, &authority):
		advice = "name the authority of the members with --cacert"
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"):
		advice = "present a certificate with --cert and --key"
	case strings.Contains(text, "HTTP response to HTTPS"):
		advice = "use http:// in --endpoints"
	}
	return fmt.Sprintf("no endpoint answers: %s: %s", strings.Join(failures, "; "), advice)
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
		return fmt.Sprintf("%s exists already: change it with deimos put", key)
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
	case deimos.CodeRootReadOnly:
		return "the root can be neither written nor removed: name a key below it"
	default:
		return fmt.Sprintf("%s: %s", e.Code, key)
	}
}
