package deimos

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrorsAreComparedByTheirCode(t *testing.T) {
	err := fmt.Errorf("read: %w", &Error{Code: CodeKeyNotFound, Cause: "/a", Index: 7})
	if !errors.Is(err, &Error{Code: CodeKeyNotFound}) {
		t.Errorf("errors.Is(%v, code 100) = false, want true", err)
	}
	if !errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrNotDir) {
		t.Errorf("errors.Is(%v) of ErrKeyNotFound, ErrNotDir = %v, %v, want true, false",
			err, errors.Is(err, ErrKeyNotFound), errors.Is(err, ErrNotDir))
	}
	if errors.Is(err, &Error{Code: CodeNotFile}) {
		t.Errorf("errors.Is(%v, code 102) = true, want false", err)
	}
}

func TestErrorsReadAsEtcdctlPrintsThem(t *testing.T) {
	for _, tt := range []struct {
		err  Error
		want string
	}{
		{Error{Code: CodeKeyNotFound, Cause: "/a", Index: 7}, "100: Key not found (/a) [7]"},
		{Error{Code: CodeRaftInternal}, "300: Raft Internal Error [0]"},
		{Error{Code: 999}, "999: error code 999 [0]"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() of code %d = %q, want %q", int(tt.err.Code), got, tt.want)
		}
	}
}

func TestIDsAreHexWithoutPadding(t *testing.T) {
	if got, want := FormatID(0x0c0348d0bf0125dc), "c0348d0bf0125dc"; got != want {
		t.Errorf("FormatID = %q, want %q", got, want)
	}
}

func TestRemovingActions(t *testing.T) {
	for action, want := range map[Action]bool{
		ActionGet: false, ActionSet: false, ActionCreate: false, ActionUpdate: false, ActionCompareAndSwap: false,
		ActionDelete: true, ActionCompareAndDelete: true, ActionExpire: true,
	} {
		if got := action.Removes(); got != want {
			t.Errorf("%s.Removes() = %v, want %v", action, got, want)
		}
	}
}
