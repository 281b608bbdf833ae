// Package httpapi serves the client port of a member: it turns HTTP requests
// into calls of a [Backend] and the results into JSON, byte for byte as the
// HTTP contract says. The keys API lives under /keys and /v2/keys, the member
// list under /members and /v2/members, beside them /v2/stats, /machines,
// /version, /health, /livez, /readyz and /metrics. [Server] and [Conns] bound
// what clients can cost before a request of theirs has arrived.
//
// The package decides what a request means and nothing else: it holds no keys,
// no member list, no clock that counts for a TTL, no TLS, it opens no listener,
// never redirects and never asks another member. A handler starts no goroutine:
// everything it does runs on the goroutine that net/http gives a request,
// watches included, and ends with it. Watches end when their watcher does, so
// stopping a server means ending the watches of the store first and shutting
// down the [http.Server] after that.
package httpapi
