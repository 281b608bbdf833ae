package deimos

import "time"

// Action names what an [Event] did, or that it is the answer to a read.
type Action string

// The actions, as they appear in the "action" field of an answer.
const (
	ActionGet              Action = "get"
	ActionCreate           Action = "create"
	ActionSet              Action = "set"
	ActionUpdate           Action = "update"
	ActionDelete           Action = "delete"
	ActionCompareAndSwap   Action = "compareAndSwap"
	ActionCompareAndDelete Action = "compareAndDelete"
	ActionExpire           Action = "expire"
)

// Removes reports whether the action takes its node out of the tree.
func (a Action) Removes() bool {
	return a == ActionDelete || a == ActionCompareAndDelete || a == ActionExpire
}

// Event is the JSON form of one successful write, expiry or read. Each store
// index above 1 belongs to exactly one write or expiry.
type Event struct {
	Action Action `json:"action"`
	// Node is the node after the operation; nil when the caller asked for
	// noValueOnSuccess.
	Node *Node `json:"node,omitempty"`
	// PrevNode is the node just before the operation, nil when there was none.
	PrevNode *Node `json:"prevNode,omitempty"`
}

// Node is the JSON form of a file or directory at one moment.
type Node struct {
	// Key is the absolute, cleaned path; "/" for the root.
	Key string `json:"key"`
	// Value is nil for directories and for nodes that were just removed; a
	// file with an empty value points to "".
	Value *string `json:"value,omitempty"`
	Dir   bool    `json:"dir,omitempty"`
	// Expiration is the answering member's wall clock at which the node is
	// due, for display only; nil for permanent nodes.
	Expiration *time.Time `json:"expiration,omitempty"`
	// TTL is the remaining life in whole seconds of cluster time, rounded up;
	// 0 means permanent or overdue, see Expiration.
	TTL int64 `json:"ttl,omitempty"`
	// Nodes are the listed children, sorted bytewise by key.
	Nodes []*Node `json:"nodes,omitempty"`
	// ModifiedIndex and CreatedIndex are store indexes; 0 for the root.
	ModifiedIndex uint64 `json:"modifiedIndex,omitempty"`
	CreatedIndex  uint64 `json:"createdIndex,omitempty"`
}
