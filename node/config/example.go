package config

import "strings"

// exampleWidth is where the example's comments are wrapped, in bytes.
const exampleWidth = 100

// Example prints every setting with its explanation and its default. The text
// is itself a file that can be loaded, and means the same as an empty one.
func Example() string {
	var b strings.Builder
	b.WriteString("# Configuration of mailnode. Every setting is here with its default; a line left out means the same.\n" +
		"# `mailnode config check FILE` reads a file and says what is wrong with it.\n")
	for _, s := range settings() {
		b.WriteByte('\n')
		for _, line := range wrap(s.doc, exampleWidth) {
			b.WriteString("# " + line + "\n")
		}
		b.WriteString(s.name + " = " + s.preset + "\n")
	}
	b.WriteString(exampleHooks())
	b.WriteString(exampleVolumes())
	return b.String()
}

// wrap cuts text into lines of at most width bytes, at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
