package mime

import "strings"

// maxTokenBytes bounds a media type's two names and an encoding's: RFC 6838 section 4.2 allows 127.
const maxTokenBytes = 127

// parseContentType reads a Content-Type value. What is no media type comes back as text/plain with the parameters that
// were there (RFC 2045 section 5.2).
func parseContentType(value string) (typ, subtype string, params []Param) {
	head, rest := cutParams(value)
	params = joinParams(parseParams(rest))
	typ, subtype, _ = strings.Cut(head, "/")
	typ, subtype = leadingToken(typ), leadingToken(strings.TrimLeft(subtype, " \t"))
	if typ == "" || subtype == "" {
		return "text", "plain", params
	}
	return typ, subtype, params
}

// parseDisposition reads a Content-Disposition value; word is "" when there is none.
func parseDisposition(value string) (word string, params []Param) {
	head, rest := cutParams(value)
	return leadingToken(head), joinParams(parseParams(rest))
}

func parseEncoding(value string) string {
	return leadingToken(strings.Trim(skipComments(value), `"`))
}

func parseLanguages(value string) []string {
	var tags []string
	for tag := range strings.SplitSeq(value, ",") {
		tag, _, _ = strings.Cut(skipComments(tag), "(")
		tag = strings.Trim(tag, " \t")
		if tag != "" && len(tags) < maxLanguages {
			tags = append(tags, tag)
		}
	}
	return tags
}

// leadingToken returns the token (RFC 2045 section 5.1) that s begins with, in lower case, "" if it is none or too long.
func leadingToken(s string) string {
	n := 0
	for n < len(s) && isTokenByte(s[n]) {
		n++
	}
	if n > maxTokenBytes {
		return ""
	}
	return strings.ToLower(s[:n])
}

func isTokenByte(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

// cutParams parts a value at the semicolon that its first word ends with. The word may be quoted, which no grammar
// allows and some senders do. Comments belong to neither.
func cutParams(value string) (head, params string) {
	value = skipComments(value)
	if strings.HasPrefix(value, `"`) {
		head, n := readQuoted(value)
		_, params, _ = strings.Cut(value[n:], ";")
		return strings.Trim(head, " \t"), params
	}
	n := strings.IndexAny(value, ";(")
	if n < 0 {
		return value, ""
	}
	head, rest := value[:n], skipComments(value[n:])
	_, params, _ = strings.Cut(rest, ";")
	return head, params
}

// skipComments returns s without the white space and comments that it begins with.
func skipComments(s string) string {
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] != '(' {
			return s
		}
		_, n := readComment(s)
		s = s[n:]
	}
}

// readComment returns the text of the comment that s begins with, and its length in s with parentheses. It may be
// unfinished.
func readComment(s string) (text string, n int) {
	var b strings.Builder
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '(':
			if depth++; depth > 1 {
				b.WriteByte(c)
			}
		case c == ')':
			if depth--; depth == 0 {
				return b.String(), i + 1
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), len(s)
}

// readQuoted returns the content of the quoted string that s begins with, and its length in s with quotes. It may be
// unfinished.
func readQuoted(s string) (text string, n int) {
	if i := strings.IndexAny(s[1:], `"\`); i >= 0 && s[1+i] == '"' {
		return s[1 : 1+i], i + 2
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), i + 1
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), len(s)
}

// parseParams reads "name=value; name=value", with comments between them. A value without quotes goes up to the
// semicolon, spaces and all: file names are sent so.
func parseParams(s string) []Param {
	var params []Param
	for len(params) < maxParams {
		s = skipComments(strings.TrimLeft(s, " \t;"))
		if s == "" {
			break
		}
		if s[0] == ';' {
			continue
		}
		end := strings.IndexAny(s, "=;(")
		if end < 0 {
			break
		}
		name := strings.ToLower(strings.Trim(s[:end], " \t"))
		s = skipComments(s[end:])
		if end = strings.IndexAny(s, "=;"); end < 0 {
			break
		}
		if s[end] == ';' {
			s = s[end:]
			continue
		}
		s = skipComments(s[end+1:])
		var value string
		if strings.HasPrefix(s, `"`) {
			var n int
			value, n = readQuoted(s)
			_, s = cutValue(s[n:])
		} else {
			value, s = cutValue(s)
			value = trimComments(value)
		}
		if name != "" {
			params = append(params, Param{name, value})
		}
	}
	return params
}

// cutValue cuts s at its first semicolon that is in no comment.
func cutValue(s string) (value, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] == ';' {
			return s[:i], s[i+1:]
		}
		if s[i] != '(' || i > 0 && s[i-1] != ' ' && s[i-1] != '\t' {
			continue
		}
		_, n := readComment(s[i:])
		if s[i+n-1] != ')' { // it does not end, and is part of a name
			value, rest, _ = strings.Cut(s[i:], ";")
			return s[:i+len(value)], rest
		}
		i += n - 1
	}
	return s, ""
}

// trimComments drops the white space and the comments at the end of s. A parenthesis without white space before it
// belongs to a file name.
func trimComments(s string) string {
	for {
		s = strings.TrimRight(s, " \t")
		if !strings.HasSuffix(s, ")") {
			return s
		}
		i, depth := len(s)-1, 0
		for ; i >= 0; i-- {
			if s[i] == ')' {
				depth++
			} else if s[i] == '(' {
				depth--
			}
			if depth == 0 {
				break
			}
		}
		if i <= 0 || s[i-1] != ' ' && s[i-1] != '\t' {
			return s
		}
		s = s[:i]
	}
}
