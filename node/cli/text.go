package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/figures"
	"mailnode/storage/slot"
)

// screenWidth is what a phone shows without turning it, in columns.
const screenWidth = 48

// wrap cuts text at spaces into lines of screenWidth, all with this indent. A word
// that is longer goes on in the next line, whole.
func wrap(indent, text string) string {
	var b strings.Builder
	line := ""
	room := screenWidth - utf8.RuneCountInString(indent)
	var words []string
	for _, word := range strings.Fields(text) {
		letters := []rune(word)
		for ; len(letters) > room; letters = letters[room:] {
			words = append(words, string(letters[:room]))
		}
		words = append(words, string(letters))
	}
	for _, word := range words {
		if line != "" && utf8.RuneCountInString(indent+line+" "+word) > screenWidth {
			b.WriteString(indent + line + "\n")
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		b.WriteString(indent + line + "\n")
	}
	return b.String()
}

// slotRanges writes slots as people do: "s000-s003 s007".
func slotRanges(ids []slot.ID) string { return slot.Ranges(ids) }

// someSlots is slotRanges in at most so many columns: what does not fit is counted.
func someSlots(ids []slot.ID, columns int) string {
	all := slotRanges(ids)
	if len(all) <= columns {
		return all
	}
	const more = len(" and 1000 more")
	end := strings.LastIndexByte(all[:max(columns-more, 0)+1], ' ')
	if end < 0 {
		return figures.Count(len(ids), "slot")
	}
	shown := all[:end]
	return fmt.Sprintf("%s and %d more", shown, len(ids)-countSlots(shown))
}

// countSlots counts the slots that slotRanges has written.
func countSlots(ranges string) int {
	n := 0
	for _, part := range strings.Fields(ranges) {
		from, to, many := strings.Cut(part, "-")
		first, err := slot.ParseID(from)
		last, err2 := slot.ParseID(to)
		if n++; many && err == nil && err2 == nil {
			n += int(last - first)
		}
	}
	return n
}

// age writes seconds, of which the admin API speaks.
func age(s int64) string { return figures.Age(time.Duration(s) * time.Second) }

// table aligns columns, two spaces between them and none after the last.
func table(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// narrow is table where that fits the screen, with this indent; else each row is a
// heading with what belongs to it below.
func narrow(indent string, rows [][]string) string {
	text := table(rows)
	fits := true
	for line := range strings.Lines(text) {
		fits = fits && utf8.RuneCountInString(indent+line) <= screenWidth+1 // its end
	}
	var b strings.Builder
	if fits {
		for line := range strings.Lines(text) {
			b.WriteString(indent + line)
		}
		return b.String()
	}
	for _, row := range rows {
		b.WriteString(wrap(indent, row[0]))
		rest := slices.DeleteFunc(slices.Clone(row[1:]), func(cell string) bool { return cell == "" })
		b.WriteString(wrap(indent+"  ", strings.Join(rest, ", ")))
	}
	return b.String()
}

// clean keeps control characters of names and texts off the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// waitedFor names the nodes that gave no answer.
func waitedFor(silent []slot.NodeName) string {
	if len(silent) == 0 {
		return ""
	}
	return "; waited in vain for " + joinNames(silent)
}
