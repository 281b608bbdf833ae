// Package zaplog turns a slog logger into the zap logger that etcd's packages
// ask for, so that an operator reads one log.
//
// It refuses to end the process: a Fatal or Panic from a library becomes a
// panic with a [Fatal] value, which the caller of that library recovers and
// returns as an error. The package starts no goroutine.
package zaplog

import (
	"context"
	"fmt"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Fatal is the value of the panic that stands for a zap record of level
// DPanic, Panic or Fatal. It is an error, so that a recovered value can be
// wrapped.
type Fatal struct {
	// Message is the text of the record, followed by its fields as key=value.
	Message string
}

// Error implements the error interface.
func (f Fatal) Error() string { return f.Message }

// New returns a zap logger whose records of level Debug to Error go to log. A
// nil log discards them. Records of level DPanic, Panic and Fatal are not
// logged: they panic with a [Fatal] value on the goroutine that wrote them, and
// whoever recovers it logs or returns it. The logger may be used from any
// goroutine.
func New(log *slog.Logger) *zap.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return zap.New(core{log.Handler()}, zap.WithFatalHook(unreachable{}), zap.WithPanicHook(unreachable{}))
}

// unreachable is what zap would run after a Fatal or Panic record was written.
// Core.Write has panicked by then, unless zap is changed; exiting must not
// come back silently in that case.
type unreachable struct{}

func (unreachable) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	panic(fatal(e.Entry, encode(nil, fields)))
}

// core writes zap's records to a slog handler. It has the handler and not the
// logger, because the time of a record is zap's.
type core struct {
	handler slog.Handler
}

// Enabled implements zapcore.LevelEnabler. Levels that unwind are always
// enabled: a library that said Fatal must not go on because a log was quiet.
func (c core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.DPanicLevel || c.handler.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.handler.WithAttrs(encode(nil, fields))}
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

// Write implements zapcore.Core.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	attrs := encode(nil, fields)
	if e.Level >= zapcore.DPanicLevel {
		panic(fatal(e, attrs))
	}
	r := slog.NewRecord(e.Time, level(e.Level), e.Message, 0)
	if e.LoggerName != "" {
		r.AddAttrs(slog.String("logger", e.LoggerName))
	}
	r.AddAttrs(attrs...)
	return c.handler.Handle(context.Background(), r)
}

// Sync implements zapcore.Core. A slog handler has nothing to flush.
func (c core) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.DebugLevel:
		return slog.LevelDebug
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

func fatal(e zapcore.Entry, attrs []slog.Attr) Fatal {
	message := e.Message
	for _, a := range attrs {
		message += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return Fatal{Message: message}
}

// encode appends the fields to attrs. Errors and strings keep their text, and
// everything else has the form of zap's own map encoder. A namespace opens a
// group for the fields after it.
func encode(attrs []slog.Attr, fields []zapcore.Field) []slog.Attr {
	for i, f := range fields {
		switch f.Type {
		case zapcore.SkipType:
		case zapcore.StringType:
			attrs = append(attrs, slog.String(f.Key, f.String))
		case zapcore.ErrorType:
			attrs = append(attrs, slog.Any(f.Key, f.Interface))
		case zapcore.NamespaceType:
			group := encode(nil, fields[i+1:])
			return append(attrs, slog.Attr{Key: f.Key, Value: slog.GroupValue(group...)})
		default:
			m := zapcore.NewMapObjectEncoder()
			f.AddTo(m)
			for key, value := range m.Fields {
				attrs = append(attrs, slog.Any(key, value))
			}
		}
	}
	return attrs
}
