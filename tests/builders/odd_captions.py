"""Captions with odd text in them, for comparing tokenizers.

Abbreviations, contractions, fractions, dashes, quotes, ellipses, currencies, addresses, tags, entities, numbers, dates,
telephone numbers, smileys, scripts, combining marks, emoji, control characters, and characters of every block.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# Separated by spaces.
ODD = """
Ph.D. Ed.D. M.D. B.A. U.S. U.K. U.N. D.C. e.g. i.e. a.m. p.m. A.M. P.M. vs. etc. et al. approx. dept. Dr. Mr. Mrs.
Ms.
Prof. St. Ave. Blvd. Rd. Inc. Ltd. Co. Corp. No. no. Nos. fig. Fig. pp. p. Jr. Sr. Jan. Feb. Sept. Oct. Mon. Tues.
Fri.
Sat. Sun. Calif. Mass. Wash. La. Pa. Lt. Col. Gen. Sgt. Rev. Hon. Gov. Sen. Rep. Capt. mt. Mt. ft. in. oz. lb.
Yahoo! Inc.
Ph.D PhD U.S.A. U.S.-based A.B.C. J. K. Mfg. Pty. Bros. Messrs. Esq. c.d.s. L.A. N.Y. o.k. O.K. R.I.P. T.V. T-shirt
J.Crew
cannot gonna gotta wanna lemme gimme Gonna CANNOT whatcha dunno d'ye 'tis 'twas 'Tis 'Twas \u2019tis \u2019twas
\u2018tis \u2019Tis \u2018twas
it's it\u2019s don't don\u2019t DON'T can\u2019t won't he'd she\u2019ll we've they\u2019re I'm I\u2019m dog's dogs'
dogs\u2019 o'clock o\u2019clock 'n' \u2019n\u2019 rock'n'roll
y'all ma'am ma\u2019am 'em \u2019em 'til \u2019til 'cause \u2019cause c'mon ne'er e'er fo'c'sle l'eau d'Or d\u2019Or
O'Brien O\u2019Brien 's 't 'd \u2019s
'90s \u201990s '05 \u201905 1950's 1950\u2019s s'mores cap'n nor'easter rock\u2019n\u2019roll ain't ain`t don`t it`s
shouldn't've y'know Qur'an
don\u2018t it\u02bcs it\u00b4s don\u00b4t it\u2032s
1/2 1\u20442 3\u20444 23\u20444 1 1/2 1-1/2 1\u00bd \u00bd \u00bc \u00be \u2153 \u2154 \u215b 5\u2044 \u2044 1/2"
5/8ths 24/7 9/11 7/11 50/50 1/ 3/4-inch 10/12/2010 1\\/2
- -- --- ---- ----- \u2013 \u2014 \u2015 \u2012 \u2010 \u2011 \u2212 a\u2013b a\u2014b 1\u20132 10-20 2010-2015
\u00ad x\u00ady \x96 \x97 -a- --a a-- \u2014a
. .. ... .... ..... ...... \u2026 \u2025 \u2024 \u22ef \u22ee . . . . . .  .. ..a a..b a...b wait... wait\u2026
\u2026and \x85 \ufe19 \u2026\u2026 \u3002 \u3001
$ $5 $5.00 $1,000 $1.5m US$5 US$ C$ A$10 HK$ \u00a3 \u00a35 \u20ac \u20ac5 5\u20ac \u00a5 \u00a5500 \u20b9 \u20b9500
\u20bd \u20a9 \u20ab \u00a2 5\u00a2 \u00a4 \u20a0 \u20a1 \u20bf \u0e3f $$ $$$ \x80 #5
http://example.com https://www.foo.org/a?b=c&d=e#f www.foo.com foo.com Foo.Com example.org bar.net x.edu foo.co.uk
www.foo.co.uk
ftp://a.b/c http://a.b/c. (http://a.b) HTTP://A.B/C mailto:a@b.c http://\u00e9.fr/\u00fc foo.com/bar foo.com.
www.a.b/c/d/ foo.info google.com's
a@b.c joe@example.com joe.smith@mail.example.co.uk <joe@example.com> a@b @ @name @name_1 @1name @a-b \uff20name
@\u00e9t\u00e9 joe@x. #tag #tag1 #1 #a_b ##
#\u00e9t\u00e9 #50 # tag @@ #a-b @a.b @a's #a's \uff03tag
1,000 1,000.50 1.000,50 1'000 1 000 .5 0.5 -5 +5 \u22125 5% 50 % 5\u2030 5\u00b0 5\u00b0F 5\u00baC 1e5 1E-5 0x1F 1,2
1,,2 1.2.3 1:2 10:30 10:30am 10:30:15 10.30pm 5pm 5p.m. 5ft
5'11" 5'11 6'2" 5\u201911\u201d 6\u2032 6\u20332 1st 2nd 3rd 4th 21st 1960s 1960's '60's 100m 10k 4x4 4\u00d74 2x 3D
3-D 2-by-4 5x7in 1, 1. 1) (1) 1.) #1. no.1 No.5 m2 m\u00b2
\u00b2 x\u00b2 10\u00b3 H2O H\u2082O \u2460 \u2167 \u216b \u3007 \u4e00 \u0661\u0662 \u0967\u0968 \uff11\uff12
\u06f1
555-1234 (555) 123-4567 555-123-4567 1-800-555-1234 +1 555 123 4567 555.123.4567 (02) 1234 5678 +44 20 7946 0958
1-800-FLOWERS 911 ++44-1234-5678 12345-6789
2010-10-12 10/12/10 12-10-2010 12.10.2010 10/2010 Oct. 12, 2010 12th Oct. 2010 12:00 noon 1990-91 '10-'11 10.12
&amp; &lt; &gt; &quot; &apos; &nbsp; &mdash; &ndash; &MD; &HT; &#39; &#x27; &copy; &eacute; A&amp;B AT&amp;T AT&T
R&B at&t & A&B B&W b&w Q&A A & B M&Ms M&M's S&P &; &a &a; &amp
<b> </b> <br> <br/> <br /> <p class="x"> <a href='b'>c</a> <!-- x --> <?xml v?> <unk> <UNK> <start> <end> <pad> <s>
</s> <3 </3 < > << >> <<a>> <a b <a b="c" d> <1> < b > <A> <a.b> <a_b>
( ) [ ] { } (a) [a] {a} (a b) ((a)) a(b)c [1] {x} (s) dog(s) ( ) \u3010 \u3011 \u300a \uff08a\uff09 \u2329 -LRB-
-RRB- -lrb-
:) :-) ;) :( :D :P :-D ;-) =) XD <3 :'( :/ :-/ >:( :O :| ^_^ -_- o_O T_T (: (; :] :} :3 8) ^^ (^_^) :)) :-)) :p :d
d: ):
! ? !! ?? ?! !? !!! \u00a1Hola! \u00bfQu\u00e9? \u203c \u2047 \u2049 \uff01 \uff1f a!b a?b yes!no !a ?a a! a? Yahoo!
Jeopardy! ! !
, ; : ,, ;; :: ,a a,b a;b a:b a,, :a ;a \uff0c \uff1b \uff1a \u00b7 \u2022 \u2027 \u30fb \u2219 \u2043 \u25cf \u25aa
" ' '' `` ` "" "a" 'a' ''a'' ``a'' `a' \u201ca\u201d \u2018a\u2019 \u201ea\u201c \u201aa\u2018 \u201a \u201b \u201f
\u201e \u2039 \u203a \u2039a\u203a \u00aba\u00bb \u00ab \u00bb \u2018 \u2019 \u201c \u201d \u2019a \u2018a a\u2019
a\u2018 "a'b" \x91a\x92 \x93a\x94 \x8ba\x9b \x84 \x82 \u2032 \u2033 \u00b4 \u02bc \uff07 \uff02
* ** *** *a* ** a** _ __ ___ _a_ a_b a__b ~ ~~ ~5 ^ ^^ | || a|b \\ \\\\ a\\b / // a/b a//b /a a/ and/or he/she/it
a/b/c/d w/ w/o c/o + ++ a+b C++ c++ C# F# c# = == a=b a=5 % %% %a
\u2122 \u00ae \u00a9 Coke\u00ae Coke\u2122 (c) \u00b0 \u00a7 \u00b6 \u2020 \u2021 \u00b1 \u00d7 \u00f7 \u2192 \u2190
\u2191 \u21d2 \u2605 \u2606 \u2665 \u2764 \u2713 \u266a \u2640 \u2642 \u2603 \u00a6 \u00ac \u00af \u00b8 \u00a8
\u00aa \u00ba \u2116 \u2120
\U0001f600 \U0001f436\U0001f415 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f1fa\U0001f1f8 \U0001f468\u200d\U0001f469
dog\U0001f436dog \U00020000 \U0001d400 \ud7ff
caf\u00e9 cafe\u0301 na\u00efve r\u00e9sum\u00e9 Z\u00fcrich \u00c5ngstr\u00f6m stra\u00dfe \u0152uvre \u0130stanbul
\u0131 \u01c5 \ufb01sh \ufb03 a\u0301\u0302 \u0301 e\u0301e \u0300a a\u20dd a\u0338 x\u0305
\u043a\u043e\u0448\u043a\u0430 \u041a\u043e\u0442. \u03b3\u03ac\u03c4\u03b1 \u03c3\u03c2 \u05d7\u05ea\u05d5\u05dc
\u05d7\u05b8\u05ea\u05d5\u05bc\u05dc \u05e6\u05d4"\u05dc \u05d2\u05f3 \u0642\u0637\u0629
\u0642\u0650\u0637\u0651\u0629 \u0640 \u061f \u060c \u06d4 \u0628\u0650\u0644\u0651\u064a
\u092c\u093f\u0932\u094d\u0932\u0940 \u0915\u0941\u0924\u094d\u0924\u093e \u0964 \u0965
\u09ac\u09bf\u09a1\u09bc\u09be\u09b2 \u0baa\u0bc2\u0ba9\u0bc8 \u0c2a\u0c3f\u0c32\u0c4d\u0c32\u0c3f
\u0e41\u0e21\u0e27 \u0e19\u0e49\u0e33 \u0e46 \u0e3f5 \u0e81\u0eb2 \u1019\u103c\u1019\u103c \u1786\u17d2\u1798\u17b6
\u0f56\u0f7c\u0f51
\u732b \u732b\u304c\u3044\u308b \u30cd\u30b3 \u30b3\u30fc\u30d2\u30fc \uff8a\uff9e \u9ad8\u5174\u3002
\uace0\uc591\uc774 \u1100\u1161 \u10d9\u10d0\u10e2\u10d0 \u10a0 \u0570\u0561\u057f \u12f5\u1218\u1275 \u13a3 \u1401
\u16a0 \u2c00 \ua000 \u4dc0 \u3400 \u3005 \u303b \u3099 \u30a0 \u2e80 \u02b0 \u02c7
\uff21\uff22 \uff41\uff42\uff43 \uff21\uff0e \uff04\uff15 \uff05 \uff06 \uff08 \uff09 \uff0d \uff0f \uff5e \uff3b
\uff3d \uff5b \uff5d \uffe5 \uffe1 \uffe0 \uff0a \uff0b \uff1d \uff1c\uff1e
\u00a0 a\u00a0b \u2003 a\u2003b \u2009 \u200b a\u200bb \u200c \u200d a\u200db \u200e \u200f \u2028 a\u2028b \u2029
\u3000 a\u3000b \u202f \u205f \u2060 a\u2060b \ufeff a\ufeffb \u1680 \u180e \u061c \u034f
\x00 a\x00b \x01 a\x01b \x07 \x08 \t a\tb \x0b \x0c a\x0cb \x1b \x1b[0m \x1f \x7f a\x7fb \x81 \x8d \x90 \x99 \x9f
\xad \ufffc \ufffd \ue000 \ufdd0 \uffff
foo.bar Foo.Bar foo.BAR a.b a.b.c A.b. end.Start end.start x.y.z. v1.2 1.a a.1 file.txt .net .NET .com a.com.
node.js e.t.
black-and-white mother-in-law x-ray X-ray -x x- x-y-z 3-year-old 5-foot-tall U.S.-Canada non-U.S. pro- anti- mid-90s
mid-'90s mid-1990\u2019s co-op e-mail ex- Jean-Luc O'Neill-Smith 80-ish 1-2-3 A-1 a-1-b twenty-one
half-\u00e9t\u00e9 1-\u00e0
STOP stop STOP. Stop! THE The THE. A a I i i. I. O. R2-D2 iPhone eBay McDonald's MACY'S N'T n't N\u2019T nt d' D' l'
dell'arte jusqu'\u00e0 aujourd'hui qu'il
mph. approx. max. min. sq. in. tel. ext. sp. cf. al. vol. ed. eds. trans. ch. sec. secs. hrs. mins. yr. yrs. yd. mi.
km. cm. mm. kg. gal. qt. pt. tsp. tbsp. doz. pkg. wt. ht. temp. est. assn. assoc. bldg. apt. rm. hwy. ste. fl. flr.
"""
JOINERS = [
    *(
        "",
        "",
        "\u00a0",
        "-",
        "/",
        ".",
        ",",
        "'",
        "\u2019",
        '"',
        "_",
        ":",
        "&",
        "@",
        "\u2013",
        "\u2014",
        "(",
        ")",
    ),
    *("\u2026", "...", "+", "=", "!", "?", "*", "#", "%", ";", "--"),
]
FRAMES = ["()", '""', "''", "\u201c\u201d", "\u2018\u2019", "[]", "<>", "**"]
ENDS = [".", ",", ". The", "'s", "\u2019s", ":", "!", "-", "?", ";", ".\u201d", '."']
NEIGHBOURS = ["dog", "A", "5", "left", "s", "the"]
_WORDS = [word for line in ODD.splitlines() for word in line.split(" ") if word]
BLOCKS = [(0x20, 0x7F), (0x80, 0xA0), (0xA0, 0x180), (0x180, 0x600), (0x300, 0x370), (0x600, 0x1100), (0x900, 0xE00),
          (0x1100, 0x2000), (0x2000, 0x2100), (0x2100, 0x2C00), (0x2C00, 0x3200), (0x3200, 0xA000), (0xA000, 0xD800),
          (0xE000, 0x10000), (0x10000, 0x20000)]  # fmt: skip
LINE_ENDS = dict.fromkeys(map(ord, "\n\r\x0b\x0c\u2028\u2029"), " ")


def odd_captions(captions: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """``count`` of the captions, drawn at random, each with one to three odd things in it, on one line."""
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choice(captions).split()
        for _ in range(draw.randint(1, 3)):
            words.insert(draw.randrange(len(words) + 1), _odd_thing(draw))
        yield " ".join(words).translate(LINE_ENDS)


def _odd_thing(draw: random.Random) -> str:
    word = draw.choice(_WORDS)
    head, tail = draw.choice(FRAMES)
    changed = [
        "".join(chr(draw.randrange(*draw.choice(BLOCKS))) for _ in range(draw.randint(1, 4))),
        head + word + tail,
        word + draw.choice(ENDS),
        word + draw.choice(JOINERS) + draw.choice(NEIGHBOURS),
        draw.choice(NEIGHBOURS) + draw.choice(JOINERS) + word,
        word + draw.choice(JOINERS) + draw.choice(_WORDS),
        draw.choice([word.upper(), word.lower(), word.title()]),
    ]
    return draw.choice([word, draw.choice(changed)])
