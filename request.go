package deimos

// Op is the operation of a write [Request].
type Op uint8

// The write operations. The numbers are part of the log format and never
// change their meaning.
const (
	// OpSet creates a node or replaces a file.
	OpSet Op = iota + 1
	// OpCreate creates a node that must not exist.
	OpCreate
	// OpUpdate changes the value and TTL of an existing file, or the TTL of an
	// existing directory.
	OpUpdate
	// OpCompareAndSwap is OpUpdate of a file under PrevValue and PrevIndex.
	OpCompareAndSwap
	// OpCreateInOrder creates a node in the directory Key, named by the index
	// of the event, padded to 20 digits.
	OpCreateInOrder
	// OpDelete removes a node.
	OpDelete
	// OpCompareAndDelete removes a file under PrevValue and PrevIndex.
	OpCompareAndDelete
)

// Request is one write to the key space. The checks that need no state (see
// the HTTP contract, section 3) have been made before a Request exists; those
// that need it are made when the Request is applied, on every member alike.
type Request struct {
	Op Op
	// Key is cleaned and absolute; "/" is the root.
	Key   string
	Value string
	// Dir asks for a directory (set, create, createInOrder), or allows an empty
	// directory to be removed (delete).
	Dir bool
	// Recursive allows a directory to be removed with its content.
	Recursive bool
	// Refresh changes the TTL only, keeps the value and wakes no watcher.
	Refresh bool
	// HasTTL tells a TTL of 0 (due at once) from none (permanent).
	HasTTL     bool
	TTLSeconds int64
	// HasPrevValue tells whether PrevValue is a condition.
	HasPrevValue bool
	PrevValue    string
	// PrevIndex is a condition unless it is 0.
	PrevIndex uint64
}

// The limits of the key space. They are enforced before a request is
// proposed, never while it is applied.
const (
	KeyMaxBytes   = 4096
	KeyMaxLevels  = 128
	TTLMaxSeconds = 3153600000
)

// Names of the HTTP parameters of the keys API.
const (
	ParamValue            = "value"
	ParamDir              = "dir"
	ParamTTL              = "ttl"
	ParamPrevExist        = "prevExist"
	ParamPrevExists       = "prevExists"
	ParamPrevValue        = "prevValue"
	ParamPrevIndex        = "prevIndex"
	ParamRecursive        = "recursive"
	ParamSorted           = "sorted"
	ParamQuorum           = "quorum"
	ParamWait             = "wait"
	ParamWaitIndex        = "waitIndex"
	ParamStream           = "stream"
	ParamRefresh          = "refresh"
	ParamNoValueOnSuccess = "noValueOnSuccess"
)

// Names of the HTTP headers of the keys API, in canonical form.
const (
	HeaderIndex         = "X-Deimos-Index"
	HeaderEtcdIndex     = "X-Etcd-Index"
	HeaderClusterID     = "X-Deimos-Cluster-Id"
	HeaderEtcdClusterID = "X-Etcd-Cluster-Id"
	HeaderRaftIndex     = "X-Raft-Index"
	HeaderRaftTerm      = "X-Raft-Term"
)
