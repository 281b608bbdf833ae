// Package pki holds the certificates of Deimos: it loads those that the two
// ports use and follows their files while the process runs ([Open]), makes a
// self-signed pair for trying TLS out ([SelfSigned]), and is a small
// certificate authority ([CreateCA]).
//
// A private key never leaves its file except into the memory of crypto/tls: no
// error, log line or metric of this package holds a byte of one.
//
// The package refuses to know about ports, HTTP and members: it hands out a
// [crypto/tls.Config] and leaves to its callers what to do with it. It neither
// revokes certificates nor reads revocation lists; whom a certificate is to be
// taken away from is kept out by replacing the CA. It starts no goroutine:
// files are looked at during the handshakes of its callers.
package pki
