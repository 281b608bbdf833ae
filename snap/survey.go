package snap

import (
	"errors"
	"io/fs"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// File is a snapshot file that was read to its end.
type File struct {
	Path string
	// Meta is what the file holds; of a damaged one only the raft index and the
	// term that its name says.
	Meta raftpb.SnapshotMetadata
	// Received says that a peer has sent it.
	Received bool
	// Err is nil if the file is right from the first byte to the last, or else a
	// [DamageError].
	Err error
}

// View returns the directory as it is, for [Snapshots.Survey] and
// [Snapshots.Load] alone: other than [Open], it changes nothing.
func View(dir string) *Snapshots { return &Snapshots{dir: dir, fs: fsx.OS{}} }

// Survey reads all snapshots, newest first; of two with the same raft index and
// term the one taken here comes first. It changes nothing. The errors are
// [ErrIO] and [ErrVersion].
func (s *Snapshots) Survey() ([]File, error) {
	found, err := s.scan()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range found {
		f := File{Path: s.path(e.name), Meta: raftpb.SnapshotMetadata{Index: e.index, Term: e.term}, Received: e.received}
		meta, err := s.verifyEntry(e)
		var damage *DamageError
		switch {
		case err == nil:
			f.Meta = meta
		case errors.As(err, &damage):
			f.Err = err
		default:
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// CheckEnd returns what [Snapshots.Settle] would: a [DamageError] if a snapshot
// that this member took itself is above the end of its log.
func CheckEnd(files []File, lastRaftIndex uint64) error {
	for _, f := range files {
		if !f.Received && f.Meta.Index > lastRaftIndex {
			return lostEnd(f.Path, f.Meta.Index, lastRaftIndex)
		}
	}
	return nil
}
