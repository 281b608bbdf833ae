package deimos

import "fmt"

// Code is the errorCode of the keys API. The numbers and texts are etcd v2's;
// codes that are never sent keep their number and text.
type Code int

// The codes that Deimos sends.
const (
	CodeKeyNotFound       Code = 100
	CodeCompareFailed     Code = 101
	CodeNotFile           Code = 102
	CodeNotDir            Code = 104
	CodeKeyExists         Code = 105
	CodeRootReadOnly      Code = 107
	CodeDirNotEmpty       Code = 108
	CodePrevValueRequired Code = 201
	CodeTTLNaN            Code = 202
	CodeIndexNaN          Code = 203
	CodeInvalidField      Code = 209
	CodeInvalidForm       Code = 210
	CodeRefreshValue      Code = 211
	CodeRefreshTTL        Code = 212
	CodeRaftInternal      Code = 300
	CodeLeaderElection    Code = 301
	CodeIndexCleared      Code = 401
)

// The codes that exist in etcd v2 and that Deimos never sends.
const (
	CodeMaxPeers           Code = 103
	CodeKeyIsPreserved     Code = 106
	CodeExistingPeerAddr   Code = 109
	CodeUnauthorized       Code = 110
	CodeValueRequired      Code = 200
	CodeValueOrTTLRequired Code = 204
	CodeTimeoutNaN         Code = 205
	CodeNameRequired       Code = 206
	CodeIndexOrValue       Code = 207
	CodeIndexValueMutex    Code = 208
	CodeWatcherCleared     Code = 400
	CodeStandbyInternal    Code = 402
	CodeInvalidActiveSize  Code = 403
	CodeStandbyRemoveDelay Code = 404
	CodeClientInternal     Code = 500
)

var codeTexts = map[Code]string{
	CodeKeyNotFound:        "Key not found",
	CodeCompareFailed:      "Compare failed",
	CodeNotFile:            "Not a file",
	CodeMaxPeers:           "Reached the max number of peers in the cluster",
	CodeNotDir:             "Not a directory",
	CodeKeyExists:          "Key already exists",
	CodeKeyIsPreserved:     "The prefix of given key is a keyword in deimos",
	CodeRootReadOnly:       "Root is read only",
	CodeDirNotEmpty:        "Directory not empty",
	CodeExistingPeerAddr:   "Peer address has existed",
	CodeUnauthorized:       "The request requires user authentication",
	CodeValueRequired:      "Value is Required in POST form",
	CodePrevValueRequired:  "PrevValue is Required in POST form",
	CodeTTLNaN:             "The given TTL in POST form is not a number",
	CodeIndexNaN:           "The given index in POST form is not a number",
	CodeValueOrTTLRequired: "Value or TTL is required in POST form",
	CodeTimeoutNaN:         "The given timeout in POST form is not a number",
	CodeNameRequired:       "Name is required in POST form",
	CodeIndexOrValue:       "Index or value is required",
	CodeIndexValueMutex:    "Index and value cannot both be specified",
	CodeInvalidField:       "Invalid field",
	CodeInvalidForm:        "Invalid POST form",
	CodeRefreshValue:       "Value provided on refresh",
	CodeRefreshTTL:         "A TTL must be provided on refresh",
	CodeRaftInternal:       "Raft Internal Error",
	CodeLeaderElection:     "During Leader Election",
	CodeWatcherCleared:     "watcher is cleared due to deimos recovery",
	CodeIndexCleared:       "The event in requested index is outdated and cleared",
	CodeStandbyInternal:    "Standby Internal Error",
	CodeInvalidActiveSize:  "Invalid active size",
	CodeStandbyRemoveDelay: "Standby remove delay",
	CodeClientInternal:     "Client Internal Error",
}

// String returns the fixed message of the code.
func (c Code) String() string {
	if s, ok := codeTexts[c]; ok {
		return s
	}
	return fmt.Sprintf("error code %d", int(c))
}

// Causes of the codes 300 and 301, which tell what has happened to a request.
const (
	// CauseNoLeader, CauseOverloaded and CauseDiskReserve promise that nothing
	// was proposed: repeating is safe.
	CauseNoLeader    = "the cluster has no leader"
	CauseOverloaded  = "the server is overloaded"
	CauseDiskReserve = "disk space is below the reserve"
	CauseStopping    = "the server is stopping"
	CauseRemoved     = "the member has been removed from the cluster"
	CauseReadTimeout = "request timed out"
	// CauseWriteTimeout leaves open whether the write happens.
	CauseWriteTimeout = "request timed out; the write may or may not have been applied"
)

// The errors that users of the keys API meet, for errors.Is. What a server
// answers has a Cause and an Index as well; see [Error.Is].
var (
	ErrKeyNotFound   error = &Error{Code: CodeKeyNotFound}
	ErrCompareFailed error = &Error{Code: CodeCompareFailed}
	ErrNotFile       error = &Error{Code: CodeNotFile}
	ErrNotDir        error = &Error{Code: CodeNotDir}
	ErrKeyExists     error = &Error{Code: CodeKeyExists}
	ErrRootReadOnly  error = &Error{Code: CodeRootReadOnly}
	ErrDirNotEmpty   error = &Error{Code: CodeDirNotEmpty}
	// ErrRaftInternal is a request that a member could not complete. A write may
	// or may not have been applied, unless the cause promises that it was not.
	ErrRaftInternal error = &Error{Code: CodeRaftInternal}
	// ErrLeaderElection promises that nothing was proposed: repeating is safe.
	ErrLeaderElection error = &Error{Code: CodeLeaderElection}
	// ErrHistoryCleared is a watch from an index that the history has forgotten.
	ErrHistoryCleared error = &Error{Code: CodeIndexCleared}
)

// Error is what a user of the keys API is told. Its message is the text of
// its code.
type Error struct {
	Code  Code
	Cause string
	// Index is the store index at which the error was found; 0 for errors found
	// before anything was replicated.
	Index uint64
}

// Error implements the error interface, in the form that etcdctl prints.
func (e *Error) Error() string {
	if e.Cause == "" {
		return fmt.Sprintf("%d: %s [%d]", int(e.Code), e.Code, e.Index)
	}
	return fmt.Sprintf("%d: %s (%s) [%d]", int(e.Code), e.Code, e.Cause, e.Index)
}

// Is reports whether target is an [Error] of the same code, so that
// errors.Is(err, deimos.ErrKeyNotFound) works, and so does
// errors.Is(err, &deimos.Error{Code: deimos.CodeKeyNotFound}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}
