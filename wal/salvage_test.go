package wal

import (
	"path/filepath"
	"testing"
)

// TestSalvageKeepsWhatPrecedesTheDamage is row D3, and only on request.
func TestSalvageKeepsWhatPrecedesTheDamage(t *testing.T) {
	h := makeHistory(t, 60)
	segments := h.im.segments()
	endOf := func(name string) (last batchEnd) {
		for _, e := range h.ends {
			if e.segment <= name {
				last = e
			}
		}
		return last
	}
	for _, tt := range []struct {
		name  string
		harm  func(image)
		want  batchEnd
		moved int
	}{
		{"nothing damaged", func(image) {}, endOf(h.im.newest()), 0},
		{"middle of an old segment", func(im image) { im[segments[1]][endOf(segments[1]).end/2] ^= 1 }, batchEnd{}, len(segments) - 2},
		{"head of a segment", func(im image) { im[segments[2]][3] ^= 1 }, endOf(segments[1]), len(segments) - 2},
		{"missing segment", func(im image) { delete(im, segments[2]) }, endOf(segments[1]), len(segments) - 3},
		{"middle of the newest", func(im image) { im[h.im.newest()][h.ends[len(h.ends)-3].end+20] ^= 1 }, h.ends[len(h.ends)-3], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
			im := h.im.clone()
			tt.harm(im)
			im.put(t, cfg.Dir)
			before, err := Inspect(cfg.Dir)
			if err != nil {
				t.Fatal(err)
			}
			cut, err := Salvage(cfg)
			if err != nil || (cut == nil) != (before.Verdict != Damaged) || cut != nil && len(cut.Moved) != tt.moved {
				t.Fatalf("Salvage() = %+v, %v, want %d segments moved", cut, err, tt.moved)
			}
			_, rec := mustOpen(t, cfg)
			if tt.want.segment != "" && (rec.LastRaftIndex != tt.want.rec.LastRaftIndex || rec.HardState.Term != tt.want.rec.HardState.Term) {
				t.Errorf("Open() after Salvage = end %d, %v; want end %d, %v", rec.LastRaftIndex, rec.HardState,
					tt.want.rec.LastRaftIndex, tt.want.rec.HardState)
			}
			if rec.LastRaftIndex > before.LastRaftIndex || rec.Repaired != nil {
				t.Errorf("Open() after Salvage = end %d, repaired %v; the damage began behind %d", rec.LastRaftIndex, rec.Repaired, before.LastRaftIndex)
			}
		})
	}
	im := h.im.clone()
	im[segments[0]][3] ^= 1
	dir := filepath.Join(tempDir(t), "wal")
	im.put(t, dir)
	if _, err := Salvage(Config{Dir: dir}); err == nil {
		t.Errorf("Salvage() with nothing before the damage = nil, want an error")
	}
	wantEqual(t, "files", takeImage(t, dir), im)
}
