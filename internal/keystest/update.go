package keystest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// edit is an answer that a transcript should show instead of its own.
type edit struct {
	file string
	line int // 1-based
	old  string
	text string
}

// note remembers an answer for the update of the transcripts.
func (s *suite) note(p *player, st *step, got string) {
	if s.opts.UpdateDir == "" || st.hasText {
		return
	}
	s.edits = append(s.edits, edit{
		file: p.story.file + ".txt", line: st.answerLine,
		old: st.answer, text: p.mover.back(strings.TrimSuffix(got, "\n")),
	})
}

// update writes the answers that differed into the transcripts.
func (s *suite) update() error {
	files := map[string][]string{}
	for _, e := range s.edits {
		name := filepath.Join(s.opts.UpdateDir, e.file)
		if files[name] == nil {
			text, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("keystest: updating %s: %w", name, err)
			}
			files[name] = strings.Split(string(text), "\n")
		}
		if e.line < 1 || e.line > len(files[name]) {
			return fmt.Errorf("keystest: updating %s: it has no line %d", name, e.line)
		}
		at := &files[name][e.line-1]
		*at = strings.Replace(*at, e.old, e.text, 1)
	}
	for name, lines := range files {
		if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			return fmt.Errorf("keystest: updating %s: %w", name, err)
		}
	}
	return nil
}
