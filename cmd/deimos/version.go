package main

import (
	"runtime/debug"
	"strings"
)

// version is set by the linker, see the Makefile.
var version = "dev"

// versionString returns the version the linker set, else what the Go tool
// recorded about the build, without the leading "v" of a tag.
func versionString() string {
	if version != "dev" && version != "" {
		return strings.TrimPrefix(version, "v")
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	return "dev"
}
