package mime

import (
	"net/mail"
	"strings"
	"testing"
	"time"
)

// TestParseDate has the forms of RFC 5322, those of its appendix A included, and some that only live in mail.
func TestParseDate(t *testing.T) {
	for value, want := range map[string]string{
		"Mon, 1 Jan 2024 10:00:00 +0000":                      "2024-01-01T10:00:00Z",
		"Fri, 21 Nov 1997 09:55:06 -0600":                     "1997-11-21T09:55:06-06:00", // appendix A.1.1
		"1 Jan 2024 10:00 +0530":                              "2024-01-01T10:00:00+05:30",
		"01 Jan 2024 10:00:00 -0000":                          "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024\r\n 10:00:00 +0000":                  "2024-01-01T10:00:00Z",
		"\r\n\tMon,\r\n 1\r\n Jan\r\n 2024 10:00 \t+0000\r\n": "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 23:59:60 +0000":                      "2024-01-01T23:59:59Z",
		"Mon (first), 1 Jan 2024 10:00:00 +0000":              "2024-01-01T10:00:00Z",
		"(x) Mon, 1 (y) Jan 2024 10:00:00 +0000 (z)":          "2024-01-01T10:00:00Z",
		"Mon,1(a(b)c\\))Jan(d)2024(e)10(f):(g)00(h):00+0100":  "2024-01-01T10:00:00+01:00",
		"Mon, 1 Jan 2024 10 : 00 : 00 +0000":                  "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 Z":                          "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 a":                          "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 ut":                         "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 GMT":                        "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 EST":                        "2024-01-01T10:00:00-05:00",
		"Mon, 1 Jan 2024 10:00:00 edt":                        "2024-01-01T10:00:00-04:00",
		"Mon, 1 Jan 2024 10:00:00 CST":                        "2024-01-01T10:00:00-06:00",
		"Mon, 1 Jan 2024 10:00:00 CDT":                        "2024-01-01T10:00:00-05:00",
		"Mon, 1 Jan 2024 10:00:00 MST":                        "2024-01-01T10:00:00-07:00",
		"Mon, 1 Jan 2024 10:00:00 MDT":                        "2024-01-01T10:00:00-06:00",
		"Mon, 1 Jan 2024 10:00:00 PST":                        "2024-01-01T10:00:00-08:00",
		"Mon, 1 Jan 2024 10:00:00 PDT":                        "2024-01-01T10:00:00-07:00",
		"Mon, 1 Jan 2024 10:00:00 CEST":                       "2024-01-01T10:00:00Z",
		"21 Nov 97 09:55:06 GMT":                              "1997-11-21T09:55:06Z", // appendix A.6.2
		"1 Jan 00 10:00 GMT":                                  "2000-01-01T10:00:00Z",
		"1 Jan 49 10:00 GMT":                                  "2049-01-01T10:00:00Z",
		"1 Jan 50 10:00 GMT":                                  "1950-01-01T10:00:00Z",
		"1 Jan 124 10:00 GMT":                                 "2024-01-01T10:00:00Z",
		"MON, 1 JAN 2024 10:00:00 +0000":                      "2024-01-01T10:00:00Z",
		"mon, 29 feb 2024 10:00:00 +0000":                     "2024-02-29T10:00:00Z",
		"Thu,\r\n  13\r\n    Feb\r\n      1969\r\n  23:32\r\n           -0330 (Newfoundland Time)": "1969-02-13T23:32:00-03:30", // A.5
		"Mon, 1 Jan 2024 10:00:00 +9959": "2024-01-01T10:00:00+99:59",
		// Not in the RFC, but in mail.
		"Mon 1 January 2024 9:00:00":                     "2024-01-01T09:00:00Z",
		"Monday, 1-Jan-24 10:00:00 GMT":                  "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 GMT+0100":              "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 + 0000":                "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 +01:00":                "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 -500":                  "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 +0060":                 "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 +99999999999999999999": "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 +":                     "2024-01-01T10:00:00Z",
		"Mon, 1 Jan 2024 10:00:00 +0100 (unended":        "2024-01-01T10:00:00+01:00",
	} {
		got, ok := ParseDate(value)
		if text := got.Format("2006-01-02T15:04:05Z07:00"); !ok || text != want {
			t.Errorf("parse %q: got %s, %v, want %s", value, text, ok, want)
		}
	}
}

func TestParseDateRefuses(t *testing.T) {
	for _, value := range []string{
		"",
		"yesterday",
		"Mon, 1 Jan 2024",
		"Mon, 0 Jan 2024 10:00:00 +0000",
		"Mon, 32 Jan 2024 10:00:00 +0000",
		"Thu, 30 Feb 2024 10:00:00 +0000",
		"Wed, 29 Feb 2023 10:00:00 +0000",
		"Mon, 1 Foo 2024 10:00:00 +0000",
		"Mon, 1 Ja 2024 10:00:00 +0000",
		"Mon, 1 Janx 2024 10:00:00 +0000",
		"Mon, 1 Jan 24024 10:00 +0000",
		"Mon, 1 Jan 1899 10:00:00 +0000",
		"Mon, 1 Jan 4 10:00:00 +0000",
		"Mon, 001 Jan 2024 10:00 +0000",
		"Mon, 1 Jan 2024 24:00:00 +0000",
		"Mon, 1 Jan 2024 10:60:00 +0000",
		"Mon, 1 Jan 2024 10:00:61 +0000",
		"Mon, 1 Jan 2024 10:0:00 +0000",
		"Mon, 1 Jan 2024 1000 +0000",
		"Mon, 1 (Jan 2024 10:00:00 +0000",
		"2024-01-01T10:00:00Z",
		"Mon, Tue, 1 Jan 2024 10:00 +0000",
	} {
		if got, ok := ParseDate(value); ok {
			t.Errorf("parse %q: got %v", value, got)
		}
	}
}

// FuzzParseDate: what the standard library reads is read alike, and any date is read again as it is written.
func FuzzParseDate(f *testing.F) {
	f.Add("Mon, 1 Jan 2024 23:59:60 +0000")
	f.Add("(x(y)) 1 (\\)) Feb 124 1 : 02 EST (z")
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := ParseDate(value)
		if oracle, err := mail.ParseDate(value); err == nil && oracle.Year() >= 1900 {
			name, offset := oracle.Zone() // Go takes offset 0 for a name that it does not know in this place
			if !ok || got.Format(time.DateTime) != oracle.Format(time.DateTime) {
				t.Fatalf("parse %q: got %v, %v, want %v", value, got, ok, oracle)
			}
			if _, ours := got.Zone(); name == "" && ours != offset {
				t.Fatalf("parse %q: zone %d, want %d", value, ours, offset)
			}
		}
		if !ok {
			return
		}
		if again, ok := ParseDate(got.Format(time.RFC1123Z)); !ok || !again.Equal(got) {
			t.Fatalf("parse %q: got %v, written and read again %v, %v", value, got, again, ok)
		}
	})
}

// TestParseDateIsLinear: whatever a field holds, each byte is read a bounded number of times.
func TestParseDateIsLinear(t *testing.T) {
	for _, unit := range []string{"(", "()", " ", "\r\n ", "a", "1", "(\\", "(a)(", ","} {
		ParseDate(strings.Repeat(unit, 1<<20/len(unit)))
		ParseDate("1 Jan 2024 " + strings.Repeat(unit, 1<<20/len(unit)))
	}
}
