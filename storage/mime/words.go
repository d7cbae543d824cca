package mime

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
)

// DecodeHeader returns a header field's value, or an unfolded text of it, with its encoded words (RFC 2047) decoded,
// for comparing and searching. Words with an unknown charset or encoding stay as they are. Raw 8-bit bytes that are not
// UTF-8 are taken for ISO 8859-1.
func DecodeHeader(raw string) string {
	s := unfold([]byte(raw))
	if !utf8.ValidString(s) {
		s = latin1(s)
	}
	var out strings.Builder
	var run wordRun
	for {
		i := strings.Index(s, "=?")
		if i < 0 {
			break
		}
		w, n := cutWord(s[i:])
		if n == 0 {
			// No end of a word is left at all, or these two bytes begin none.
			if w.unfinished {
				break
			}
			run.flush(&out)
			out.WriteString(s[:i+2])
			s = s[i+2:]
			continue
		}
		// White space between two encoded words is not shown (RFC 2047 section 6.2).
		if !run.open || strings.Trim(s[:i], " \t") != "" {
			run.flush(&out)
			out.WriteString(s[:i])
		} else if strings.EqualFold(run.charset, w.charset) {
			run.raw = append(run.raw, s[:i]...)
		} else if !run.flush(&out) {
			out.WriteString(s[:i])
		}
		run.open, run.charset = true, w.charset
		run.content = append(run.content, w.content...)
		run.raw = append(run.raw, s[i:i+n]...)
		s = s[i+n:]
	}
	run.flush(&out)
	out.WriteString(s)
	return out.String()
}

// wordRun is a run of encoded words of one charset. They are put together before they become text, since many senders
// cut words in the middle of a character.
type wordRun struct {
	open    bool
	charset string
	content []byte
	raw     []byte
}

// flush writes the run; ok is false when it could only be written as it stood.
func (r *wordRun) flush(out *strings.Builder) (ok bool) {
	if !r.open {
		return true
	}
	text, ok := DecodeText(r.charset, r.content)
	if ok {
		out.WriteString(text)
	} else {
		out.Write(r.raw)
	}
	*r = wordRun{content: r.content[:0], raw: r.raw[:0]}
	return ok
}

type word struct {
	charset    string
	content    []byte
	unfinished bool // there is no "?=" in the rest at all
}

// cutWord reads the encoded word that s begins with; n is 0 when there is none.
func cutWord(s string) (w word, n int) {
	const maxCharset = 64
	i := strings.IndexByte(s[2:min(len(s), 2+maxCharset)], '?')
	if i <= 0 || len(s) < 2+i+3 || s[2+i+2] != '?' {
		return word{}, 0
	}
	w.charset, _, _ = strings.Cut(s[2:2+i], "*") // RFC 2231 section 5: a language may follow
	encoding, text := s[2+i+1]|0x20, s[2+i+3:]
	if encoding != 'q' && encoding != 'b' {
		return word{}, 0
	}
	end := strings.Index(text, "?=")
	if end < 0 {
		return word{unfinished: true}, 0
	}
	n = 2 + i + 3 + end + 2
	if encoding == 'q' {
		w.content = decodeQ(text[:end])
		return w, n
	}
	w.content, _ = io.ReadAll(DecodedReader(strings.NewReader(text[:end]), "base64"))
	return w, n
}

// decodeQ decodes RFC 2047's Q encoding; what is no valid escape stays.
func decodeQ(s string) []byte {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '_':
			out = append(out, ' ')
		case s[i] == '=' && i+2 < len(s):
			if b, ok := unhex(s[i+1], s[i+2]); ok {
				out = append(out, b)
				i += 2
				continue
			}
			out = append(out, '=')
		default:
			out = append(out, s[i])
		}
	}
	return out
}

// DecodeText converts bytes of a charset to UTF-8; ok is false if the charset is not known. What is no character in it
// becomes U+FFFD.
func DecodeText(name string, content []byte) (text string, ok bool) {
	if isPlainCharset(name) {
		return strings.ToValidUTF8(string(content), "\uFFFD"), true
	}
	r, err := charset.Reader(name, bytes.NewReader(content))
	if err != nil {
		return "", false
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return "", false
	}
	return strings.ToValidUTF8(string(out), "\uFFFD"), true
}

func latin1(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}

func unhex(hi, lo byte) (b byte, ok bool) {
	h, l := hexDigit(hi), hexDigit(lo)
	return byte(h<<4 | l), h >= 0 && l >= 0
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
