package lmtpd

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// envelope is what one MAIL or RCPT says (RFC 5321, sections 4.1.1.2 and
// 4.1.1.3). It is read here because go-smtp v0.25.0 takes the quotes off a local
// part, refuses senders without a domain, wants SIZE below 2^32, and answers
// parameters that it does not know with 500 and 504. go-smtp still keeps the
// order of commands: it gets a line that it understands, and session takes what
// was really said from here.
type envelope struct {
	path string          // as said, without <, > and a source route
	to   slot.Address    // RCPT's
	size int64           // as declared; what cannot be counted is math.MaxInt64
	utf8 bool            // SMTPUTF8
	err  *smtp.SMTPError // what is wrong with the command, whenever it comes
}

// readMail reads the arguments of MAIL. A sender is taken as the MTA gives it,
// with a domain or without: it becomes the Return-Path.
func readMail(args string) (e envelope) {
	rest := e.readPath(args, "FROM:")
	if e.err == nil && !returnable(e.path) {
		e.err = badSender()
	}
	e.readParams(rest, func(keyword, value string) *smtp.SMTPError {
		switch keyword {
		case "SIZE":
			return e.readSize(value)
		case "BODY": // RFC 6152; BINARYMIME is not offered
			if value == "" {
				return malformed("want a value for BODY")
			} else if !strings.EqualFold(value, "7BIT") && !strings.EqualFold(value, "8BITMIME") {
				return notOffered("BODY=" + value)
			}
		case "SMTPUTF8": // RFC 6531, section 3.4
			if e.utf8 = true; value != "" {
				return malformed("want SMTPUTF8 without a value")
			}
		default:
			return notOffered(keyword)
		}
		return nil
	})
	return e
}

// readRcpt reads the arguments of RCPT. postmaster is whom <postmaster> stands
// for, or "".
func readRcpt(args string, postmaster slot.Address) (e envelope) {
	rest := e.readPath(args, "TO:")
	if e.err == nil {
		e.to, e.err = recipient(e.path, postmaster)
	}
	e.readParams(rest, func(keyword, _ string) *smtp.SMTPError { return notOffered(keyword) })
	return e
}

// recipient reads a path of RCPT. Only <postmaster> may come without a domain
// (RFC 5321, section 4.1.1.3).
func recipient(path string, postmaster slot.Address) (slot.Address, *smtp.SMTPError) {
	a, err := slot.ParseAddress(path)
	if err == nil {
		return a, nil
	}
	if a, err := slot.ParseAddress(path + "@localhost"); err != nil || a != "postmaster@localhost" {
		return "", badRecipient()
	}
	if postmaster == "" {
		return "", &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody takes mail for <postmaster> without a domain"}
	}
	return postmaster, nil
}

// readPath reads the path behind the keyword and returns what follows it.
func (e *envelope) readPath(args, keyword string) (rest string) {
	args = strings.TrimLeft(args, " ")
	wrong := &smtp.SMTPError{Code: 501, EnhancedCode: smtp.EnhancedCode{5, 5, 2}, Message: "want " + keyword + "<address>"}
	if len(args) < len(keyword) || !strings.EqualFold(args[:len(keyword)], keyword) {
		e.err = wrong
		return ""
	}
	args = strings.TrimLeft(args[len(keyword):], " \t")
	end := pathEnd(args)
	if end <= 0 {
		e.err = wrong
		return ""
	}
	e.path, rest = args[:end], args[end:]
	if inner, ok := strings.CutPrefix(e.path, "<"); ok {
		e.path = strings.TrimSuffix(inner, ">")
	}
	if strings.HasPrefix(e.path, "@") { // a source route is accepted and ignored (RFC 5321, section 4.1.1.3)
		var ok bool
		if _, e.path, ok = strings.Cut(e.path, ":"); !ok {
			e.err = wrong
		}
	}
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		e.err = wrong
	}
	return rest
}

// pathEnd finds where a path ends: behind its >, or, as some clients leave the
// brackets out, before white space. Within quotes both are part of it. -1: it
// does not end.
func pathEnd(s string) int {
	bracket, inQuotes := strings.HasPrefix(s, "<"), false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && inQuotes:
			i++
		case c == '"':
			inQuotes = !inQuotes
		case inQuotes:
		case c == '>' && bracket:
			return i + 1
		case (c == ' ' || c == '\t') && !bracket:
			return i
		}
	}
	if bracket || inQuotes {
		return -1
	}
	return len(s)
}

// returnable reports whether a path can stand in a Return-Path field.
func returnable(path string) bool {
	if !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return false
	}
	inQuotes := false
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && inQuotes:
			i++
		case c == '"':
			inQuotes = !inQuotes
		case !inQuotes && (c == ' ' || c == '<' || c == '>'):
			return false
		}
	}
	return !inQuotes
}

// readParams reads Mail-parameters or Rcpt-parameters (RFC 5321, section 4.1.2)
// and hands them to take, keywords in capitals. The first error stands.
func (e *envelope) readParams(rest string, take func(keyword, value string) *smtp.SMTPError) {
	seen := map[string]bool{}
	for _, word := range strings.Fields(rest) {
		if e.err != nil {
			return
		}
		name, value, has := strings.Cut(word, "=")
		keyword := strings.ToUpper(name)
		if seen[keyword] || !isKeyword(name) || has && !isParamValue(value) {
			e.err = malformed("want each parameter once, as KEYWORD or KEYWORD=value")
			return
		}
		seen[keyword] = true
		e.err = take(keyword, value)
	}
}

// isKeyword reports whether s is an esmtp-keyword.
func isKeyword(s string) bool {
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0) {
			return false
		}
	}
	return s != ""
}

// isParamValue reports whether s is an esmtp-value, UTF-8 included (RFC 6531,
// section 3.3).
func isParamValue(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r == '=' || unicode.IsControl(r) })
}

// readSize reads a size of up to 20 digits (RFC 1870, section 5): more than any
// message has.
func (e *envelope) readSize(digits string) *smtp.SMTPError {
	if digits == "" || len(digits) > 20 || strings.Trim(digits, "0123456789") != "" {
		return malformed("want SIZE=1 to 20 digits")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		n = math.MaxInt64 // all digits, so it is out of range
	}
	e.size = n
	return nil
}

// rcptLine is the RCPT that go-smtp gets. It takes one pair of quotes off and
// shows the rest to the client, so that is what was said.
func (e *envelope) rcptLine(hostname string) string {
	local, domain := "postmaster", hostname
	if e.err != nil {
		local = "refused"
	} else if i := strings.LastIndexByte(e.path, '@'); i >= 0 {
		local, domain = e.path[:i], e.path[i+1:]
	}
	local = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local)
	return `RCPT TO:<"` + local + `"@` + domain + ">\r\n"
}

// tooBig answers a MAIL that declares more than the limit (RFC 1870, section 6.1).
func (e *envelope) tooBig(bytesMax int64) error {
	if e.size > bytesMax {
		return reply(storage.Errorf(storage.ErrTooBig, "receive message: %d bytes declared", e.size))
	}
	return nil
}

func malformed(want string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: 501, EnhancedCode: smtp.EnhancedCode{5, 5, 4}, Message: want}
}

// notOffered answers a parameter of an extension that LHLO did not name (RFC
// 5321, section 4.1.1.11).
func notOffered(param string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: 555, EnhancedCode: smtp.EnhancedCode{5, 5, 4}, Message: "parameter not offered: " + param}
}
