package transport

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
)

const (
	// secretMinBytes and secretMaxBytes bound the length of a secret.
	secretMinBytes = 16
	secretMaxBytes = 64 << 10

	// proofVersion begins everything that a proof covers. It changes with the
	// list of what is covered.
	proofVersion = "deimos peer proof 2"
	redacted     = "[secret]"
)

// Secret is what the members of a cluster prove to each other that they know.
// It never leaves the process: what travels are proofs (see the package
// comment). Every way to print it prints "[secret]". It is immutable and may be
// used from any goroutine.
type Secret struct {
	// The keys are derived from the secret, one for each purpose, so that no
	// proof of one kind can be taken for one of another.
	request, answer []byte
}

// NewSecret makes a secret from its bytes, which it does not keep. It fails for
// fewer than 16 bytes and for more than 64 KiB.
func NewSecret(secret []byte) (*Secret, error) {
	if err := checkSecret(secret); err != nil {
		return nil, fmt.Errorf("transport: the peer secret cannot be used: %w", err)
	}
	derive := func(purpose string) []byte {
		h := hmac.New(sha256.New, secret)
		_, _ = io.WriteString(h, proofVersion+" "+purpose) // a hash takes everything
		return h.Sum(nil)
	}
	return &Secret{request: derive("request"), answer: derive("answer")}, nil
}

// LoadSecret reads a secret from a file: the whole file without the newline at
// its end. It fails when the file cannot be read, and like [NewSecret].
func LoadSecret(path string) (*Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("transport: the file with the peer secret cannot be read: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, secretMaxBytes+3))
	if err != nil {
		return nil, fmt.Errorf("transport: the file with the peer secret cannot be read: %w", err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	if err := checkSecret(data); err != nil {
		return nil, fmt.Errorf("transport: the peer secret in the file %s cannot be used: %w", path, err)
	}
	return NewSecret(data)
}

func checkSecret(secret []byte) error {
	switch {
	case len(secret) < secretMinBytes:
		return fmt.Errorf("it has %d bytes, and a secret must have at least %d", len(secret), secretMinBytes)
	case len(secret) > secretMaxBytes:
		return fmt.Errorf("it has more than %d bytes", secretMaxBytes)
	}
	return nil
}

// String implements fmt.Stringer without telling anything.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer without telling anything.
func (s Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, for the verbs that ask neither String nor
// GoString.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer without telling anything.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler without telling anything.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// prove returns the proof for fields, in hex. Each field is preceded by its
// length, so that no two lists of fields have the same bytes.
func prove(key []byte, fields ...string) string {
	h := hmac.New(sha256.New, key)
	var size [8]byte
	for _, f := range append([]string{proofVersion}, fields...) {
		binary.BigEndian.PutUint64(size[:], uint64(len(f)))
		_, _ = h.Write(size[:]) // a hash takes everything
		_, _ = io.WriteString(h, f)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// proven compares two proofs in a time that does not depend on where they
// differ.
func proven(got, want string) bool { return hmac.Equal([]byte(got), []byte(want)) }

// digest is the SHA-256 of bytes, in hex.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// newNonce returns 16 random bytes in hex.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// isNonce accepts what newNonce makes.
func isNonce(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16
}
