package mime

import (
	"slices"
	"strconv"
	"strings"
)

// joinParams puts parameters together that were sent in pieces (RFC 2231 section 3), as section 8 asks of IMAP servers.
// Pieces may come in any order. They count up to the first gap, of two with the same number the first; what is left
// over stays as it stands.
//
// Plain pieces become one plain value. A value in extended notation (section 4) keeps it, under the name "x*": nothing
// else tells an RFC 3501 client its charset. But what is ASCII is shown plain, for all clients to read, unless there is
// a plain "x" as well.
func joinParams(params []Param) []Param {
	if !slices.ContainsFunc(params, func(p Param) bool { return strings.Contains(p.Name, "*") }) {
		return params
	}
	type piece struct {
		base   string
		number int
	}
	at := map[piece]int{}
	for i, p := range params {
		if base, number, _ := cutPiece(p.Name); number >= 0 {
			if _, twice := at[piece{base, number}]; !twice {
				at[piece{base, number}] = i
			}
		}
	}
	var out []Param
	joined := map[string]bool{}
	used := make([]bool, len(params))
	for i, p := range params {
		if base, number, _ := cutPiece(p.Name); number >= 0 && !joined[base] {
			joined[base] = true
			var run []Param
			for n := 0; ; n++ {
				j, ok := at[piece{base, n}]
				if !ok {
					break
				}
				run, used[j] = append(run, params[j]), true
			}
			if len(run) > 0 {
				out = append(out, joinPieces(base, run))
			}
		}
		if !used[i] {
			out = append(out, p)
		}
	}
	return showASCII(out)
}

// cutPiece takes the name of a piece apart: "x*2*" is piece 2 of x, in extended notation. For a name of another form
// number is -1.
func cutPiece(name string) (base string, number int, extended bool) {
	name, extended = strings.CutSuffix(name, "*")
	base, digits, ok := strings.Cut(name, "*")
	number, err := strconv.Atoi(digits)
	if !ok || base == "" || err != nil || number >= maxParams || strconv.Itoa(number) != digits {
		return name, -1, extended
	}
	return base, number, extended
}

func joinPieces(base string, run []Param) Param {
	var plain, inAll strings.Builder
	anyExtended := false
	for i, p := range run {
		_, _, extended := cutPiece(p.Name)
		if i == 0 && (!extended || strings.Count(p.Value, "'") < 2) {
			inAll.WriteString("''") // no charset, no language
		}
		plain.WriteString(p.Value)
		if extended {
			anyExtended = true
			inAll.WriteString(p.Value)
		} else {
			writeExtended(&inAll, p.Value)
		}
	}
	if anyExtended {
		return Param{base + "*", inAll.String()}
	}
	return Param{base, plain.String()}
}

// writeExtended writes a plain value as part of an extended one (RFC 2231 section 7, attribute-char).
func writeExtended(out *strings.Builder, plain string) {
	const hex = "0123456789ABCDEF"
	for i := range len(plain) {
		if c := plain[i]; isTokenByte(c) && c != '*' && c != '\'' && c != '%' {
			out.WriteByte(c)
		} else {
			out.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
}

func showASCII(params []Param) []Param {
	for i, p := range params {
		base, extended := strings.CutSuffix(p.Name, "*")
		if !extended || base == "" || strings.Contains(base, "*") {
			continue
		}
		if _, taken := findParam(params, base); taken {
			continue
		}
		if text, ok := p.decoded(); ok && isPrintable(text) {
			params[i] = Param{base, text}
		}
	}
	return params
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func findParam(params []Param, name string) (value string, ok bool) {
	for _, p := range params {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// decoded returns an extended value, "charset'language'text", in UTF-8; ok is false when its charset is not known.
func (p *Param) decoded() (text string, ok bool) {
	charsetName, rest, quoted := strings.Cut(p.Value, "'")
	if _, after, twice := strings.Cut(rest, "'"); quoted && twice {
		rest = after
	} else {
		charsetName, rest = "", p.Value
	}
	content := make([]byte, 0, len(rest))
	for i := 0; i < len(rest); i++ {
		if rest[i] == '%' && i+2 < len(rest) {
			if b, ok := unhex(rest[i+1], rest[i+2]); ok {
				content = append(content, b)
				i += 2
				continue
			}
		}
		content = append(content, rest[i])
	}
	return DecodeText(charsetName, content)
}

// DecodedParams returns the parameters of a Content-Type or Content-Disposition value as people see them: put together,
// and in UTF-8. Names are in lower case.
func DecodedParams(value []byte) []Param {
	_, rest := cutParams(unfold(value[:min(len(value), maxFieldBytes)]))
	params := joinParams(parseParams(rest))
	for i := range params {
		p := &params[i]
		if base, extended := strings.CutSuffix(p.Name, "*"); extended {
			if text, ok := p.decoded(); ok {
				*p = Param{base, text}
			}
		} else {
			p.Value = DecodeHeader(p.Value)
		}
	}
	return params
}
