package transport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretIsReadWhole(t *testing.T) {
	const sixteen = "0123456789abcdef"
	for _, tt := range []struct {
		name, file string
		same       string // the secret that it is
		want       string // a part of the error
	}{
		{"plain", sixteen, sixteen, ""},
		{"with a newline", sixteen + "\n", sixteen, ""},
		{"with a newline of two bytes", sixteen + "\r\n", sixteen, ""},
		{"with two newlines", sixteen + "\n\n", sixteen + "\n", ""},
		{"with a space", sixteen + " ", sixteen + " ", ""},
		{"of any bytes", "\x00\xff" + sixteen, "\x00\xff" + sixteen, ""},
		{"short", sixteen[1:], "", "it has 15 bytes, and a secret must have at least 16"},
		{"short without its newline", sixteen[1:] + "\n", "", "it has 15 bytes"},
		{"empty", "", "", "it has 0 bytes"},
		{"at the limit", strings.Repeat("x", secretMaxBytes) + "\r\n", strings.Repeat("x", secretMaxBytes), ""},
		{"too long", strings.Repeat("x", secretMaxBytes+1), "", "more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := LoadSecret(path)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("LoadSecret() = %v, want an error with %q and the file", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want, err := NewSecret([]byte(tt.same))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.request, want.request) || !bytes.Equal(got.answer, want.answer) {
				t.Errorf("LoadSecret() is another secret than %.20q", tt.same)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := LoadSecret(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("LoadSecret(%s) = %v, want an error that names the file", missing, err)
	}
	if _, err := NewSecret([]byte("short")); err == nil {
		t.Error("NewSecret(5 bytes) = nil, want an error")
	}
}

// Goal: a secret cannot get into a log line or a dump by accident.
func TestSecretIsNeverPrinted(t *testing.T) {
	s := secretNo(t, 1)
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "secret", s, "value", *s, "config", Config{Secret: s}, "group", slog.GroupValue(slog.Any("s", s)))
	text, err := json.Marshal(map[string]any{"s": s, "v": *s})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%b", "%T"} {
		all += fmt.Sprintf(verb+" "+verb, s, *s)
	}
	all += s.String() + s.GoString()
	for _, key := range [][]byte{s.request, s.answer} {
		for _, form := range []string{string(key), fmt.Sprintf("%x", key), fmt.Sprintf("%d", key)[1:40], fmt.Sprintf("%q", key)} {
			if strings.Contains(all, form) {
				t.Errorf("a key is in %q", all)
			}
		}
	}
	if !strings.Contains(all, redacted) {
		t.Errorf("%q is not in %q", redacted, all)
	}
}
