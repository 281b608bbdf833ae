package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// prepare writes the changed files of a mutant into dir and returns the flags
// that make a build use them. Its errors mean that the mutant is stale.
func (w *workshop) prepare(ctx context.Context, m *mutant, dir string) ([]string, error) {
	overlay := map[string]string{}
	changed := map[string]string{} // source by file, for several edits of one file
	copies := map[string]string{}  // of dependencies, by module
	for i := range m.edits {
		e := &m.edits[i]
		module, path := e.module()
		original := filepath.Join(w.root, path)
		if module != "" {
			if copies[module] == "" {
				copied, err := w.copyModule(ctx, module, filepath.Join(dir, "module"+fmt.Sprint(len(copies))))
				if err != nil {
					return nil, err
				}
				copies[module] = copied
			}
			original = filepath.Join(copies[module], path)
		}
		source, known := changed[original]
		if !known {
			data, err := os.ReadFile(original)
			if err != nil {
				return nil, err
			}
			source = string(data)
		}
		source, err := e.apply(source)
		if err != nil {
			return nil, err
		}
		changed[original] = source
		target := original // a copy is changed in place
		if module == "" {
			target = filepath.Join(dir, fmt.Sprintf("%d-%s", len(overlay), filepath.Base(path)))
			if overlay[original] != "" {
				target = overlay[original]
			}
			overlay[original] = target
		}
		if err := os.WriteFile(target, []byte(source), 0o600); err != nil {
			return nil, err
		}
	}
	var flags []string
	if len(overlay) > 0 {
		name, err := writeOverlay(dir, overlay)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "-overlay", name)
	}
	if len(copies) > 0 {
		name, err := w.writeModFile(dir, copies)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "-modfile", name)
	}
	return flags, nil
}

func writeOverlay(dir string, replace map[string]string) (string, error) {
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, data, 0o600)
}

// writeModFile writes a go.mod, and the go.sum beside it, that takes the copies
// for the dependencies: files of the module cache cannot be overlaid.
func (w *workshop) writeModFile(dir string, copies map[string]string) (string, error) {
	mod, err := os.ReadFile(filepath.Join(w.root, "go.mod"))
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(w.root, "go.sum"))
	if err != nil {
		return "", err
	}
	for module, copied := range copies {
		mod = fmt.Appendf(mod, "\nreplace %s => %s\n", module, copied)
	}
	name := filepath.Join(dir, "mutant.mod")
	if err := os.WriteFile(name, mod, 0o600); err != nil {
		return "", err
	}
	return name, os.WriteFile(filepath.Join(dir, "mutant.sum"), sum, 0o600)
}

// copyModule copies the sources of a dependency, without its tests.
func (w *workshop) copyModule(ctx context.Context, module, to string) (string, error) {
	from, err := w.moduleDir(ctx, module)
	if err != nil {
		return "", err
	}
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case strings.HasSuffix(path, "_test.go") || (filepath.Ext(path) != ".go" && d.Name() != "go.mod"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	return to, err
}

// moduleDir returns where the sources of a dependency are.
func (w *workshop) moduleDir(ctx context.Context, module string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if dir := w.dirs[module]; dir != "" {
		return dir, nil
	}
	out, err := w.command(ctx, w.root, "go", "list", "-m", "-f", "{{.Dir}}", module)
	dir := strings.TrimSpace(out)
	if err != nil || dir == "" {
		return "", fmt.Errorf("find the dependency %s: %w: %s", module, err, dir)
	}
	w.dirs[module] = dir
	return dir, nil
}
