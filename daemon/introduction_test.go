package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos/transport"
)

// cluster answers for members at their URLs: at once with what they know, at "hung…"
// never, and elsewhere with an error.
func cluster(known map[string]transport.MembersInfo) askFunc {
	return func(ctx context.Context, url string) (transport.MembersInfo, error) {
		if info, ok := known[url]; ok {
			return info, nil
		}
		if strings.HasPrefix(url, "hung") {
			<-ctx.Done()
			return transport.MembersInfo{}, ctx.Err()
		}
		return transport.MembersInfo{}, errors.New("refused")
	}
}

func TestURLsBehindWhichNobodyAnswersDoNotHideTheOthers(t *testing.T) {
	known := map[string]transport.MembersInfo{
		"b": {ClusterID: 7, RaftIndex: 5}, "c": {ClusterID: 7, RaftIndex: 9}, "foreign": {ClusterID: 8},
	}
	for _, tt := range []struct {
		name    string
		members []BootstrapMember
		want    uint64 // the raft index of the answer; 0: none
		refusal string
		takes   time.Duration
	}{
		{"all answer", []BootstrapMember{{"b", []string{"b"}}, {"c", []string{"c"}}}, 9, "", 0},
		{"the first URL hangs", []BootstrapMember{{"b", []string{"hung 1", "hung 2", "b"}}}, 5, "", 0},
		{"the first member hangs", []BootstrapMember{{"h", []string{"hung"}}, {"b", []string{"b"}}}, 5, "", answerTimeout},
		{"nobody is asked of itself", []BootstrapMember{{"a", []string{"c"}}, {"b", []string{"b"}}}, 5, "", 0},
		{"nobody answers", []BootstrapMember{{"h", []string{"hung"}}, {"x", []string{"x"}}}, 0, "x: refused", answerTimeout},
		{"two clusters", []BootstrapMember{{"b", []string{"b"}}, {"f", []string{"foreign"}}}, 0, "foreign to cluster 8", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				info, err := askOnce(t.Context(), cluster(known), &Config{Name: "a", Bootstrap: tt.members})
				if tt.refusal != "" {
					if err == nil || !strings.Contains(err.Error(), tt.refusal) {
						t.Errorf("askOnce() = %v, want an error with %q", err, tt.refusal)
					}
				} else if err != nil || info.RaftIndex != tt.want {
					t.Errorf("askOnce() = raft index %d, %v, want %d", info.RaftIndex, err, tt.want)
				}
				if took := time.Since(began); took != tt.takes {
					t.Errorf("askOnce() took %v, want %v", took, tt.takes)
				}
			})
		})
	}
}

func TestTheFirstAnswerIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ask := cluster(map[string]transport.MembersInfo{"b": {ClusterID: 7}})
		urls := slices.Concat(slices.Repeat([]string{"hung"}, 20), []string{"refused", "b"})
		if a, err := askFirst(t.Context(), ask, urls); err != nil || a.url != "b" || a.ClusterID != 7 {
			t.Errorf("askFirst() = %q, cluster %x, %v, want b's answer", a.url, a.ClusterID, err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("askFirst() took %v, want none: the answer was there", took)
		}
	})
}
