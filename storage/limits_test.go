package storage

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "make docs/LIMITS.md's table again")
	os.Exit(m.Run())
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func day(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02") }

// limitRows is the door's part of docs/LIMITS.md: a row per constant of
// limits.go, or for several.
func limitRows() []struct{ names, what, limit, beyond string } {
	return []struct{ names, what, limit, beyond string }{
		{"MaxMailboxNameBytes MaxMailboxLevels", "mailbox name", fmt.Sprintf("%s bytes of UTF-8, %d levels", thousands(MaxMailboxNameBytes), MaxMailboxLevels), "`NO [LIMIT]`"},
		{"", "characters of a mailbox name", "UTF-8 without control characters and empty levels; `/` separates", "`NO [CANNOT]`"},
		{"MaxMailboxes", "mailboxes of an account", thousands(MaxMailboxes), "`NO [LIMIT]`"},
		{"MaxSubscriptions", "subscriptions of an account", thousands(MaxSubscriptions), "`NO [LIMIT]`"},
		{"MaxKeywordBytes", "keyword", fmt.Sprintf("%d bytes, an atom", MaxKeywordBytes), "`NO [CANNOT]`"},
		{"MaxKeywordsPerMessage", "keywords of a message, or of one command", thousands(MaxKeywordsPerMessage), "`NO [LIMIT]`, nothing is changed"},
		{"", "different keywords of a mailbox", "no limit", "–"},
		{"MaxMessageBytes", "message, whatever the settings say", thousands(MaxMessageBytes) + " bytes; 0 bytes are a message, any bytes are", "552 5.3.4, `NO [LIMIT]`"},
		{"MinInternalDateUnix MaxInternalDateUnix", "internal date", day(MinInternalDateUnix) + " to " + day(MaxInternalDateUnix) + ", UTC", "`NO [CANNOT]`"},
		{"MaxCopyMessages", "messages of one COPY", thousands(MaxCopyMessages), "`NO [LIMIT]`"},
		{"MaxTxnRecords", "records per event, but for COPY and RENAME", thousands(MaxTxnRecords), "long work is several events"},
		{"MaxStepMessages", "messages per event of STORE, EXPUNGE, MOVE", thousands(MaxStepMessages), "longer commands are several events"},
		{"MaxPasswordBytes", "password", "1 to " + thousands(MaxPasswordBytes) + " bytes of UTF-8 without line ends and NUL; compared in NFC", "refused, exit code 2"},
	}
}

// TestLimitsTable: what docs/LIMITS.md tells operators is what limits.go says.
func TestLimitsTable(t *testing.T) {
	var want strings.Builder
	want.WriteString("| what | limit | beyond it |\n| --- | --- | --- |\n")
	var told []string
	for _, r := range limitRows() {
		fmt.Fprintf(&want, "| %s | %s | %s |\n", r.what, r.limit, r.beyond)
		told = append(told, strings.Fields(r.names)...)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "limits.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		for i := 0; ok && i < len(v.Names); i++ {
			if name := v.Names[i].Name; strings.HasPrefix(name, "M") && !strings.Contains(" "+strings.Join(told, " ")+" ", " "+name+" ") {
				t.Errorf("%s is in no row of limitRows", name)
			}
		}
		return true
	})
	const path, begin, end = "../docs/LIMITS.md", "<!-- begin: storage/limits.go (go test ./storage -rewrite) -->\n", "<!-- end -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	if have == want.String() {
		return
	}
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs (go test ./storage -rewrite makes it again):\n%s\nwant\n%s", path, have, want.String())
}
