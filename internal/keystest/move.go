package keystest

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// mover carries a story from the empty store it is written for to a directory
// of a used one: keys go below /dir, indexes up by offset.
type mover struct {
	prefix string // replaces /keys and /v2/keys, "" leaves them
	dir    string // nine letters and digits
	offset uint64
	url    string // of the door, for {url}
}

var (
	repeatForm = regexp.MustCompile(`\{([^{}"*]+)\*(\d+)\}`)
	indexForm  = regexp.MustCompile(`<(\d+)>`)
	keysTarget = regexp.MustCompile(`^(/v2/keys|/keys)(/.*)?$`)
	keyField   = regexp.MustCompile(`"(key|cause)":"/([^"{])`)
	indexField = regexp.MustCompile(`"(modifiedIndex|createdIndex|index)":([1-9]\d*)`)
)

// asked is a request as it goes out.
type asked struct {
	target string
	header http.Header
	body   []byte
}

func (m mover) request(s *step) asked {
	a := asked{target: m.target(s.target), header: http.Header{}, body: []byte(m.text(s.body))}
	if len(a.body) > 0 {
		a.header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, values := range s.header {
		if values[0] == "-" {
			a.header.Del(name)
			continue
		}
		a.header[http.CanonicalHeaderKey(name)] = []string{m.text(values[0])}
	}
	return a
}

// target moves the path of a request below the story's directory, unless the
// path says itself where the directory goes ({}) or that it is not wanted
// ({root}).
func (m mover) target(text string) string {
	path, query, has := strings.Cut(text, "?")
	if p := keysTarget.FindStringSubmatch(path); p != nil {
		prefix, rest := p[1], p[2]
		if m.prefix != "" {
			prefix = m.prefix
		}
		if !strings.Contains(rest, "{}") && !strings.Contains(rest, "{root}") {
			rest = "/" + m.dir + rest
		}
		path = prefix + rest
	} else if strings.HasSuffix(path, "keys{root}") && m.prefix != "" {
		path = m.prefix
	}
	if has {
		path += "?" + query
	}
	return m.text(path)
}

// text fills the places that a transcript leaves open.
func (m mover) text(s string) string {
	s = strings.ReplaceAll(s, "{root}", "")
	s = strings.ReplaceAll(s, "{url}", m.url)
	s = strings.ReplaceAll(s, "{}", m.dir)
	s = repeatForm.ReplaceAllStringFunc(s, func(f string) string {
		p := repeatForm.FindStringSubmatch(f)
		n, err := strconv.Atoi(p[2])
		if err != nil || n > 8<<20 {
			return f
		}
		return strings.Repeat(p[1], n)
	})
	return indexForm.ReplaceAllStringFunc(s, func(f string) string {
		digits := f[1 : len(f)-1]
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return f
		}
		if digits[0] == '0' {
			return fmt.Sprintf("%0*d", len(digits), n+m.offset)
		}
		return strconv.FormatUint(n+m.offset, 10)
	})
}

// answer moves an expected answer: keys, causes and indexes.
func (m mover) answer(s string) string {
	s = keyField.ReplaceAllString(s, `"$1":"/`+m.dir+`/$2`)
	s = indexField.ReplaceAllStringFunc(s, func(f string) string {
		p := indexField.FindStringSubmatch(f)
		n, err := strconv.ParseUint(p[2], 10, 64)
		if err != nil {
			return f
		}
		return fmt.Sprintf(`"%s":%d`, p[1], n+m.offset)
	})
	return m.text(s)
}

func (m mover) pattern(expr string) *regexp.Regexp {
	return regexp.MustCompile(expr)
}

// back turns an answer into the words of a transcript, for a reader and for
// an update. Numbers outside of the index fields are left alone, except those
// that can only be indexes.
func (m mover) back(s string) string {
	s = strings.ReplaceAll(s, `":"/`+m.dir+`/`, `":"/`)
	s = strings.ReplaceAll(s, m.dir, "{}")
	s = indexField.ReplaceAllStringFunc(s, func(f string) string {
		p := indexField.FindStringSubmatch(f)
		n, err := strconv.ParseUint(p[2], 10, 64)
		if err != nil || n <= m.offset {
			return f
		}
		return fmt.Sprintf(`"%s":%d`, p[1], n-m.offset)
	})
	return paddedIndex.ReplaceAllStringFunc(s, func(f string) string {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil || n <= m.offset {
			return f
		}
		return fmt.Sprintf("<%020d>", n-m.offset)
	})
}

var paddedIndex = regexp.MustCompile(`\b0\d{19}\b`)
