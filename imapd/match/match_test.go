package match

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

func TestFold(t *testing.T) {
	for _, same := range [][]string{
		{"Grüße", "GRÜSSE", "gru\u0308sse", "Grüẞe"},
		{"café", "cafe\u0301", "CAFÉ"},
		{"ﬁsh", "fish"},
		{"Ａ１", "a1"},
		{"Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"},
		{"\u212a\u212b", "kå"}, // Kelvin and Ångström signs
		{"q\u0323\u0307", "q\u0307\u0323"},
		{"한글", norm.NFD.String("한글")},
		{"caf\xe9", "café"},
		{"𝐀", "a"},
		{"\xe2\x82A", "â\u0082a"},
	} {
		for _, s := range same[1:] {
			if got, want := Fold(s), Fold(same[0]); got != want {
				t.Errorf("%q folds to %q, %q to %q", s, got, same[0], want)
			}
		}
	}
	for _, differ := range [][2]string{{"ı", "i"}, {"İ", "i"}, {"ö", "oe"}, {"ø", "o"}, {"а", "a"}} {
		if Fold(differ[0]) == Fold(differ[1]) {
			t.Errorf("%q and %q fold to the same", differ[0], differ[1])
		}
	}
}

// TestFoldIsUnicodes: every character folds as the libraries fold it.
func TestFoldIsUnicodes(t *testing.T) {
	caser := cases.Fold()
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if s := string(r); utf8.ValidRune(r) {
			if got, want := Fold(s), caser.String(norm.NFKD.String(s)); got != want {
				t.Fatalf("%U folds to %q, want %q", r, got, want)
			}
		}
	}
}

// FuzzFinder compares with a search for one word after another in the whole text.
func FuzzFinder(f *testing.F) {
	f.Add("he said: she sells HERS", "he\nshe\nhers\nhis\n\ns\nss", uint8(3))
	f.Add("stra\u00dfe caf\u0065\u0301 \xff\xe2\x82", "SS\ncafé\nß\nÿ", uint8(1))
	f.Fuzz(func(t *testing.T, text, list string, piece uint8) {
		words := strings.Split(list, "\n")
		var w Words
		numbers := make([]int, len(words))
		for i := range words {
			numbers[i] = w.Add(words[i])
		}
		finder := NewFinder(&w)
		for round := range 2 { // the second time after Reset
			for rest := text; ; {
				n := min(len(rest), int(piece)+1)
				finder.Write([]byte(rest[:n]))
				if rest = rest[n:]; rest == "" {
					break
				}
			}
			finder.End()
			folded, count := Fold(text), map[int]bool{}
			for i, word := range words {
				want := strings.Contains(folded, Fold(word))
				if got := finder.Found(numbers[i]); got != want {
					t.Fatalf("round %d: %q in %q: %v, want %v", round, word, text, got, want)
				}
				if want {
					count[numbers[i]] = true
				}
			}
			if finder.Count() != len(count) {
				t.Fatalf("count %d, want %d", finder.Count(), len(count))
			}
			finder.Reset()
		}
	})
}

// TestFinderManyWords: random words of few letters, so that they begin and end in one another.
func TestFinderManyWords(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	random := func(n int) string {
		var b strings.Builder
		for range rng.IntN(n) {
			b.WriteByte("ab\xdf"[rng.IntN(3)])
		}
		return b.String()
	}
	for range 200 {
		var w Words
		words := map[int]string{}
		for range 1 + rng.IntN(50) {
			s := random(12)
			words[w.Add(s)] = s
		}
		finder := NewFinder(&w)
		text := random(200)
		finder.WriteText(text)
		for number, word := range words {
			if want := strings.Contains(Fold(text), Fold(word)); finder.Found(number) != want {
				t.Fatalf("seed %d: %q in %q: %v", seed, word, text, !want)
			}
		}
	}
}

// TestFinderDoesNotSpan: a word is not found across the end of a text.
func TestFinderDoesNotSpan(t *testing.T) {
	var w Words
	n := w.Add("needle")
	f := NewFinder(&w)
	f.Write([]byte("nee"))
	f.End()
	f.WriteText("dle")
	if f.Found(n) {
		t.Error("found across two texts")
	}
}

// TestFinderMemory: the longest list of words that a command can bring takes memory in proportion, not a row of 256 for
// each byte.
func TestFinderMemory(t *testing.T) {
	var w Words
	for i := range 8_000 {
		w.Add(fmt.Sprint(i*i*7919, "x"))
	}
	NewFinder(&w)
	if len(w.nodes) > w.Bytes()+2 {
		t.Errorf("%d nodes for %d bytes of words", len(w.nodes), w.Bytes())
	}
}

func BenchmarkFinder(b *testing.B) {
	for name, text := range map[string]string{"ascii": "Hello World, this is Text. ", "cyrillic": "Привет Мир и все ", "german": "Straße grüßt übel "} {
		for _, words := range []int{1, 500} {
			b.Run(fmt.Sprint(name, "/", words), func(b *testing.B) {
				var w Words
				for i := range words {
					w.Add(fmt.Sprint("needle", i))
				}
				f := NewFinder(&w)
				piece := []byte(strings.Repeat(text, 64<<10/len(text)))
				b.SetBytes(int64(len(piece)))
				for b.Loop() {
					f.Write(piece)
				}
			})
		}
	}
}
