package wire

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// errUTF7 says that a name is not modified UTF-7.
var errUTF7 = errors.New("decode mailbox name: not modified UTF-7")

// utf7Base64 is RFC 3501's base64: "," for "/", no padding.
var utf7Base64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").
	WithPadding(base64.NoPadding).Strict()

func utf7Plain(c byte) bool { return c >= ' ' && c < 0x7f }

// EncodeUTF7 returns a UTF-8 name in modified UTF-7 (RFC 3501, section 5.1.3).
func EncodeUTF7(name string) string {
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = utf7Plain(name[i]) && name[i] != '&'
	}
	if plain {
		return name
	}
	var out strings.Builder
	var run []byte // UTF-16BE
	flush := func() {
		if len(run) > 0 {
			out.WriteByte('&')
			out.WriteString(utf7Base64.EncodeToString(run))
			out.WriteByte('-')
			run = run[:0]
		}
	}
	for _, r := range name {
		switch {
		case r == '&':
			flush()
			out.WriteString("&-")
		case r < 0x80 && utf7Plain(byte(r)):
			flush()
			out.WriteByte(byte(r))
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			run = append(run, byte(hi>>8), byte(hi), byte(lo>>8), byte(lo))
		default:
			run = append(run, byte(r>>8), byte(r))
		}
	}
	flush()
	return out.String()
}

// DecodeUTF7 returns a name in UTF-8. It refuses every form that EncodeUTF7 would
// not make: RFC 3501, section 5.1.3, forbids superfluous shifts, so that one
// name has one spelling.
func DecodeUTF7(s string) (string, error) {
	if strings.IndexByte(s, '&') < 0 {
		for i := range len(s) {
			if !utf7Plain(s[i]) {
				return "", errUTF7
			}
		}
		return s, nil
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		c := s[i]
		if !utf7Plain(c) {
			return "", errUTF7
		}
		if c != '&' {
			out.WriteByte(c)
			i++
			continue
		}
		end := strings.IndexByte(s[i:], '-')
		if end < 0 {
			return "", errUTF7
		}
		if err := decodeShift(&out, s[i+1:i+end]); err != nil {
			return "", err
		}
		i += end + 1
	}
	if name := out.String(); EncodeUTF7(name) == s {
		return name, nil
	}
	return "", errUTF7
}

func decodeShift(out *strings.Builder, enc string) error {
	if enc == "" {
		out.WriteByte('&')
		return nil
	}
	b, err := utf7Base64.DecodeString(enc)
	if err != nil || len(b)%2 != 0 {
		return errUTF7
	}
	for i := 0; i < len(b); i += 2 {
		r := rune(b[i])<<8 | rune(b[i+1])
		if utf16.IsSurrogate(r) {
			if i+3 >= len(b) {
				return errUTF7
			}
			i += 2
			if r = utf16.DecodeRune(r, rune(b[i])<<8|rune(b[i+1])); r == utf8.RuneError {
				return errUTF7
			}
		}
		out.WriteRune(r)
	}
	return nil
}
