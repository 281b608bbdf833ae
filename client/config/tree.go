package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Tree is the files below a directory: their values by their paths below it,
// such as "db/port". Empty directories are not in it, nor are hidden files, those
// with an element that begins with an underscore.
type Tree map[string]string

// Keys returns the paths, sorted.
func (t Tree) Keys() []string { return slices.Sorted(maps.Keys(t)) }

// Sub returns the files below the directory dir, by their paths below that.
func (t Tree) Sub(dir string) Tree {
	sub := make(Tree)
	for key, value := range t {
		if rel, ok := strings.CutPrefix(key, dir+"/"); ok {
			sub[rel] = value
		}
	}
	return sub
}

// Decode makes a value of a struct type T as [Tree.Decode] does, from the zero
// value of T. Files that belong to no field are ignored, so that a program can be
// older than its configuration.
func Decode[T any](t Tree) (T, error) {
	var value T
	err := t.Decode(&value)
	return value, err
}

// DecodeStrict is [Decode] that refuses files that belong to no field, so that
// misspelt ones are noticed.
func DecodeStrict[T any](t Tree) (T, error) {
	var value T
	d := decoder{tree: t, used: make(map[string]bool)}
	d.decode(&value)
	for _, key := range t.Keys() {
		if !d.used[key] {
			d.fail(key, errors.New("unknown key"))
		}
	}
	return value, errors.Join(d.errs...)
}

// Decode fills the struct that into points to. A field with the tag
//
//	deimos:"name"
//
// gets the value of the file of that name. A struct is a directory: its fields are
// the files in it. Otherwise the type of the field says how the value is read:
//
//   - string: as it is
//   - bool, integers, floats: as package strconv reads them, without spaces
//     around; integers in any base, as in 0x1f
//   - [time.Duration]: as in 1m30s
//   - []string: parts between commas, without spaces around them; an empty value
//     is an empty list
//   - a type whose pointer is an [encoding.TextUnmarshaler], such as [time.Time],
//     [net/netip.Addr] or [log/slog.Level]: what that makes of it
//   - any type, with deimos:"name,json": a JSON value
//
// A field whose file is missing keeps what it has, so defaults are set before;
// with deimos:"name,required" that is an error. Fields without a tag are left
// alone. The error names everything that is wrong, and the struct is not to be
// used then. A tag that makes no sense or an into that is no pointer to a struct
// is a mistake of the program, and panics.
func (t Tree) Decode(into any) error {
	d := decoder{tree: t}
	d.decode(into)
	return errors.Join(d.errs...)
}

// decode fills the struct that into points to.
func (d *decoder) decode(into any) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: decoding into %T, want a pointer to a struct", into))
	}
	d.fill("", v.Elem())
}
