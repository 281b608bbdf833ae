package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/marsevilspirit/deimos/daemon"
)

// configFileMaxBytes bounds what is read of a configuration file.
const configFileMaxBytes = 1 << 20

// readConfigFile reads a YAML mapping from option names to values. Every error
// is a usage error that names the file.
func readConfigFile(path string, byName map[string]*option) ([]given, error) {
	source := "config file " + printable(path)
	data, err := readBounded(path)
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // the path is in the message already
		}
		return nil, daemon.Usagef("%s: %v", source, err)
	}
	return parseConfigFile(source, data, byName)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, configFileMaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > configFileMaxBytes {
		return nil, errors.New("larger than 1 MiB")
	}
	return data, nil
}

// parseConfigFile turns the bytes of a configuration file into settings. An
// empty file has none.
func parseConfigFile(source string, data []byte, byName map[string]*option) ([]given, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, daemon.Usagef("%s: not YAML: %s", source, oneLine(strings.TrimPrefix(err.Error(), "yaml: ")))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, daemon.Usagef("%s: more than one YAML document", source)
	}
	if len(document.Content) != 1 {
		return nil, daemon.Usagef("%s: not a mapping of names to values", source)
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, daemon.Usagef("%s: not a mapping of names to values", source)
	}

	var level []given
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name := root.Content[i].Value
		g, err := fileSetting(source, name, root.Content[i+1], byName)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, daemon.Usagef("%s: %s is given twice", source, name)
		}
		seen[name] = true
		if g != nil {
			level = append(level, *g)
		}
	}
	return level, nil
}

// fileSetting reads one line of the mapping; nil for a name without a value,
// which counts as unset like an empty variable.
func fileSetting(source, name string, node *yaml.Node, byName map[string]*option) (*given, error) {
	o := byName[name]
	switch {
	case isGone(name):
		return nil, gone(source + ": " + name)
	case o == nil || name == optionConfigFile:
		if meant := suggest(name, slices.Collect(maps.Values(byName))); meant != "" && meant != name {
			return nil, daemon.Usagef("%s: unknown name %q, did you mean %s?", source, name, meant)
		}
		return nil, daemon.Usagef("%s: unknown name %q", source, name)
	}
	source += ": " + name
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return nil, nil
	case node.Kind == yaml.ScalarNode:
		return &given{o, name, source, node.Value}, nil
	case node.Kind == yaml.SequenceNode && o.isList():
		list := make([]string, 0, len(node.Content))
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, daemon.Usagef("%s: the items of a list are plain values", source)
			}
			list = append(list, item.Value)
		}
		return &given{o, name, source, strings.Join(list, ",")}, nil
	case o.isList():
		return nil, daemon.Usagef("%s: needs a list or a comma-separated text", source)
	default:
		return nil, daemon.Usagef("%s: needs a plain value", source)
	}
}
