package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// tagName is the key of the field tags.
const tagName = "deimos"

var (
	durationType = reflect.TypeFor[time.Duration]()
	stringsType  = reflect.TypeFor[[]string]()
)

// decoder fills one struct.
type decoder struct {
	tree Tree
	used map[string]bool // keys that belong to fields; nil: nobody asks
	errs []error
}

// tag is what a field tag says.
type tag struct {
	name           string
	json, required bool
}

// tagOf reads the tag of a field, and reports false for a field without one.
func tagOf(in reflect.Type, f reflect.StructField) (tag, bool) {
	text, ok := f.Tag.Lookup(tagName)
	if !ok {
		return tag{}, false
	}
	words := strings.Split(text, ",")
	t := tag{name: words[0]}
	for _, w := range words[1:] {
		switch w {
		case "json":
			t.json = true
		case "required":
			t.required = true
		default:
			panic(fmt.Sprintf("config: the tag %q of %v.%s has the unknown option %q", text, in, f.Name, w))
		}
	}
	if t.name == "" || strings.Contains(t.name, "/") || !f.IsExported() {
		panic(fmt.Sprintf("config: the tag %q of %v.%s needs a name without slashes and an exported field", text, in, f.Name))
	}
	return t, true
}

// fail notes what is wrong with a key.
func (d *decoder) fail(key string, err error) {
	d.errs = append(d.errs, fmt.Errorf("%s: %w", key, err))
}

// fill fills a struct from the directory dir, which is "" or ends with a slash.
func (d *decoder) fill(dir string, v reflect.Value) {
	for i := range v.NumField() {
		t, ok := tagOf(v.Type(), v.Type().Field(i))
		if !ok {
			continue
		}
		key, field := dir+t.name, v.Field(i)
		_, isText := field.Addr().Interface().(encoding.TextUnmarshaler)
		if field.Kind() == reflect.Struct && !isText && !t.json {
			d.fill(key+"/", field)
			continue
		}
		value, ok := d.tree[key]
		switch {
		case ok:
			if d.used != nil {
				d.used[key] = true
			}
			if err := set(field, value, t.json); err != nil {
				d.fail(key, err)
			}
		case t.required:
			d.fail(key, errors.New("is missing"))
		}
	}
}

// set reads a value into a field.
func set(field reflect.Value, value string, isJSON bool) error {
	if isJSON {
		fresh := reflect.New(field.Type())
		if err := json.Unmarshal([]byte(value), fresh.Interface()); err != nil {
			return err
		}
		field.Set(fresh.Elem())
		return nil
	}
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(value))
	}
	switch field.Type() {
	case durationType:
		d, err := time.ParseDuration(strings.TrimSpace(value))
		if err != nil {
			return fmt.Errorf("%q is no duration, want one like 1m30s", value)
		}
		field.SetInt(int64(d))
		return nil
	case stringsType:
		field.Set(reflect.ValueOf(list(value)))
		return nil
	}
	return setBasic(field, value)
}

// list returns the parts of a value between commas.
func list(value string) []string {
	if strings.TrimSpace(value) == "" {
		return nil
	}
	parts := strings.Split(value, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// setBasic reads a value into a field of a basic type.
func setBasic(field reflect.Value, value string) error {
	if field.Kind() == reflect.String {
		field.SetString(value)
		return nil
	}
	trimmed := strings.TrimSpace(value)
	bits := func() int { return field.Type().Bits() }
	var err error
	switch field.Kind() {
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(trimmed)
		field.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var i int64
		i, err = strconv.ParseInt(trimmed, 0, bits())
		field.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var u uint64
		u, err = strconv.ParseUint(trimmed, 0, bits())
		field.SetUint(u)
	case reflect.Float32, reflect.Float64:
		var f float64
		f, err = strconv.ParseFloat(trimmed, bits())
		field.SetFloat(f)
	default:
		panic(fmt.Sprintf("config: a field of type %v needs a tag with json", field.Type()))
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%q does not fit into %v", value, field.Type())
	case err != nil:
		return fmt.Errorf("%q is no %v", value, field.Kind())
	}
	return nil
}
