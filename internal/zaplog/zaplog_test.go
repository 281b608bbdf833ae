package zaplog

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func textLogger(w *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func TestRecordsReachSlog(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(*zap.Logger)
		want  string
	}{
		{"debug", func(l *zap.Logger) { l.Debug("a") }, "level=DEBUG msg=a\n"},
		{"info with fields", func(l *zap.Logger) {
			l.Info("a", zap.String("s", "x"), zap.Int("n", 3), zap.Uint64("u", 1<<63), zap.Bool("b", true), zap.Duration("d", time.Second))
		}, "level=INFO msg=a s=x n=3 u=9223372036854775808 b=true d=1s\n"},
		{"warn with error", func(l *zap.Logger) { l.Warn("a", zap.Error(errors.New("e 1"))) }, "level=WARN msg=a error=\"e 1\"\n"},
		{"nil error", func(l *zap.Logger) { l.Warn("a", zap.Error(nil)) }, "level=WARN msg=a\n"},
		{"error", func(l *zap.Logger) { l.Error("a", zap.Strings("l", []string{"x", "y"})) }, "level=ERROR msg=a l=\"[x y]\"\n"},
		{"with and name", func(l *zap.Logger) { l.Named("w").With(zap.String("k", "v")).Info("a") }, "level=INFO msg=a k=v logger=w\n"},
		{"namespace", func(l *zap.Logger) { l.Info("a", zap.Namespace("g"), zap.Int("n", 1)) }, "level=INFO msg=a g.n=1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			tt.write(New(textLogger(&out, slog.LevelDebug)))
			if got := out.String(); got != tt.want {
				t.Errorf("log = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestQuietLevelsAreSkipped(t *testing.T) {
	var out bytes.Buffer
	l := New(textLogger(&out, slog.LevelWarn))
	l.Debug("a")
	l.Info("b")
	if out.Len() != 0 {
		t.Errorf("log = %q, want nothing below Warn", out.String())
	}
	if l.Core().Enabled(zap.InfoLevel) {
		t.Error("Enabled(Info) = true, want false")
	}
}

func TestFatalLevelsUnwind(t *testing.T) {
	quiet := slog.New(slog.NewTextHandler(&strings.Builder{}, &slog.HandlerOptions{Level: slog.Level(100)}))
	for _, tt := range []struct {
		name  string
		log   *slog.Logger
		write func(*zap.Logger)
	}{
		{"fatal", nil, func(l *zap.Logger) { l.Fatal("bad name", zap.String("path", "x.wal")) }},
		{"panic", nil, func(l *zap.Logger) { l.Panic("bad name", zap.String("path", "x.wal")) }},
		{"dpanic", nil, func(l *zap.Logger) { l.DPanic("bad name", zap.String("path", "x.wal")) }},
		{"fatal in a quiet log", quiet, func(l *zap.Logger) { l.Fatal("bad name", zap.String("path", "x.wal")) }},
		{"fatal of a derived logger", nil, func(l *zap.Logger) { l.Named("n").Fatal("bad name", zap.String("path", "x.wal")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				want := Fatal{Message: "bad name path=x.wal"}
				if got := recover(); got != want {
					t.Errorf("recover() = %#v, want %#v", got, want)
				}
			}()
			tt.write(New(tt.log))
		})
	}
}

func TestFatalIsAnError(t *testing.T) {
	var f Fatal
	if err := error(Fatal{Message: "m"}); !errors.As(err, &f) || err.Error() != "m" {
		t.Errorf("Error() = %q, want %q", err, "m")
	}
}
