package httpapi

import (
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
)

// inOrderDigits is the length of the name that a POST gives to a node.
const inOrderDigits = 20

// cutPrefix takes the prefix of the keys API off a decoded path. What is left
// is empty or starts with a slash. local tells that reads under this prefix
// are local unless they ask for more.
func cutPrefix(urlPath string) (rest string, local, ok bool) {
	if rest, ok = strings.CutPrefix(urlPath, "/v2/keys"); ok {
		local = true
	} else if rest, ok = strings.CutPrefix(urlPath, "/keys"); !ok {
		return "", false, false
	}
	return rest, local, rest == "" || rest[0] == '/'
}

// cleanKey makes the key out of what cutPrefix left. inOrder tells that the
// key is a directory in which a node with a generated name is to be made: the
// limits hold for that node.
func cleanKey(rest string, inOrder bool) (string, *refusal) {
	if !utf8.ValidString(rest) {
		return "", refuse(deimos.CodeInvalidField, "key is not valid UTF-8")
	}
	if hasControl(rest) {
		return "", refuse(deimos.CodeInvalidField, "key contains a control character")
	}
	key := "/"
	if rest != "" {
		key = path.Clean(rest)
	}
	length, levels := len(key), strings.Count(key, "/")
	if key == "/" {
		levels = 0
	}
	if inOrder {
		levels++
		length += 1 + inOrderDigits
		if key == "/" {
			length--
		}
	}
	if length > deimos.KeyMaxBytes {
		return "", refuse(deimos.CodeInvalidField, "key is longer than "+strconv.Itoa(deimos.KeyMaxBytes)+" bytes")
	}
	if levels > deimos.KeyMaxLevels {
		return "", refuse(deimos.CodeInvalidField, "key has more than "+strconv.Itoa(deimos.KeyMaxLevels)+" levels")
	}
	return key, nil
}

// hasControl reports whether s, which is valid UTF-8, contains a character of
// U+0000–U+001F or U+007F–U+009F.
func hasControl(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case b < 0x20, b == 0x7f:
			return true
		case b == 0xc2 && s[i+1] < 0xa0:
			return true
		}
	}
	return false
}
