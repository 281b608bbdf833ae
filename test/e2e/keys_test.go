package e2e

import (
	"flag"
	"testing"

	"github.com/marsevilspirit/deimos/internal/keystest"
)

var updateDir = flag.String("update", "", "directory of transcripts into which answers that differ are written")

// singleDoor leads to one process and can start others.
type singleDoor struct{ keystest.Door }

func (singleDoor) Fresh(t testing.TB, flags ...string) keystest.Door {
	return keystest.URL(startNode(t, flags...).client)
}

// followerDoor leads to a follower of three and can start other clusters.
type followerDoor struct{ keystest.Door }

func (followerDoor) Fresh(t testing.TB, flags ...string) keystest.Door {
	return keystest.URL(startCluster(t, flags...).follower(t).client)
}

func TestKeysOfOneNode(t *testing.T) {
	t.Parallel()
	keystest.Run(t, singleDoor{keystest.URL(startNode(t).client)}, keystest.Options{UpdateDir: *updateDir})
}

func TestKeysOfAFollower(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	keystest.Run(t, followerDoor{keystest.URL(c.follower(t).client)}, keystest.Options{})
}
