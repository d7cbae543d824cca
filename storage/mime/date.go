package mime

import (
	"strconv"
	"strings"
	"time"
)

// ParseDate reads the value of a Date field, folded or not, in every form that RFC 5322 allows (section 3.3, and the
// obsolete ones of section 4.3): comments and folds between all words, years of two and three digits, zones by name,
// no seconds, second 60. The result is in the zone of the field. Second 60 becomes 59, which keeps the day.
//
// It is a little more lenient than the RFC where that leaves no doubt about the day: any word may stand for the day of
// the week, with a comma or without; months may be written out; hyphens may stand between day, month and year; a zone
// may be missing or of another form; what follows the zone is ignored.
func ParseDate(value string) (t time.Time, ok bool) {
	r := dateReader{s: value}
	if r.letters() != "" {
		r.try(',')
	}
	day := r.number(1, 2)
	r.try('-')
	month := monthNumber(r.letters())
	r.try('-')
	year := r.year()
	hour := r.number(1, 2)
	r.want(':')
	minute := r.number(2, 2)
	second := 0
	if r.try(':') {
		second = r.number(2, 2)
	}
	zone := r.zone()
	if r.bad || month == 0 || year < 1900 || hour > 23 || minute > 59 || second > 60 {
		return time.Time{}, false
	}
	t = time.Date(year, month, day, hour, minute, min(second, 59), 0, zone)
	if t.Day() != day { // there is no such day in that month
		return time.Time{}, false
	}
	return t, true
}

// dateReader reads the words of a date from left to right; bad says that one was missing.
type dateReader struct {
	s   string
	bad bool
}

// skip passes over white space, folds and comments (RFC 5322 section 3.2.2).
func (r *dateReader) skip() {
	for {
		r.s = strings.TrimLeft(r.s, " \t\r\n")
		if r.s == "" || r.s[0] != '(' {
			return
		}
		_, n := readComment(r.s)
		r.s = r.s[n:]
	}
}

func (r *dateReader) try(c byte) bool {
	r.skip()
	if r.s == "" || r.s[0] != c {
		return false
	}
	r.s = r.s[1:]
	return true
}

func (r *dateReader) want(c byte) {
	if !r.try(c) {
		r.bad = true
	}
}

// letters returns the word that comes next, "" for something else.
func (r *dateReader) letters() string { return r.run(isLetter) }

// number returns a number of at least and at most so many digits.
func (r *dateReader) number(atLeast, atMost int) int {
	digits := r.run(isDigit)
	if len(digits) < atLeast || len(digits) > atMost {
		r.bad = true
		return 0
	}
	n := 0
	for i := range len(digits) {
		n = n*10 + int(digits[i]-'0')
	}
	return n
}

func (r *dateReader) run(is func(byte) bool) string {
	r.skip()
	n := 0
	for n < len(r.s) && is(r.s[n]) {
		n++
	}
	word := r.s[:n]
	r.s = r.s[n:]
	return word
}

// year reads years of less than four digits as RFC 5322 section 4.3 says.
func (r *dateReader) year() int {
	r.skip()
	before := len(r.s)
	year := r.number(2, 4)
	switch before - len(r.s) {
	case 2:
		if year < 50 {
			return 2000 + year
		}
		return 1900 + year
	case 3:
		return 1900 + year
	}
	return year
}

// zone reads an offset or a name. Names that are not known say nothing, and so do the letters other than Z, which RFC
// 822 got wrong (RFC 5322 section 4.3), and offsets of another form: the day stands before them.
func (r *dateReader) zone() *time.Location {
	sign := 0
	switch {
	case r.try('+'):
		sign = 1
	case r.try('-'):
		sign = -1
	default:
		return zoneNamed(r.letters())
	}
	digits := r.run(isDigit)
	n, err := strconv.Atoi(digits)
	if err != nil || len(digits) != 4 || n%100 > 59 {
		return zoneAt(0)
	}
	return zoneAt(sign * (n/100*60 + n%100))
}

func zoneNamed(name string) *time.Location {
	hours := 0
	switch strings.ToUpper(name) {
	case "EDT":
		hours = -4
	case "EST", "CDT":
		hours = -5
	case "CST", "MDT":
		hours = -6
	case "MST", "PDT":
		hours = -7
	case "PST":
		hours = -8
	}
	return zoneAt(hours * 60)
}

func zoneAt(minutes int) *time.Location {
	if minutes == 0 {
		return time.UTC
	}
	return time.FixedZone("", minutes*60)
}

// monthNumber knows months by three letters or more of their names, in any case; 0 is none.
func monthNumber(word string) time.Month {
	if len(word) < 3 {
		return 0
	}
	for m := time.January; m <= time.December; m++ {
		if name := m.String(); len(word) <= len(name) && strings.EqualFold(word, name[:len(word)]) {
			return m
		}
	}
	return 0
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
