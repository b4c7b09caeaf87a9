"""Markdown: what it becomes, that it does not depend on how the text came, and that nothing of it is ever HTML."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from .talking import THOUGHT, call

pytestmark = pytest.mark.browser

SHOWN = """async pieces => {
  const { Prose } = await import('/page/prose.js');
  const root = document.createElement('div');
  const prose = new Prose(root);
  for (const piece of pieces) { prose.push(piece); prose.finish(); }
  return root.innerHTML;
}"""
BAR = '<div class="bar"><span>{}</span><button type="button" aria-label="Copy the code">Copy</button></div>'

ATTACKS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt&#58;window.hacked=1) [x](data:text/html,<script>window.hacked=1</script>)",
    "<javascript:window.hacked=1> <https://x.example/'onfocus='window.hacked=1'>",
    "![x](javascript:window.hacked=1) ![y](https://evil.example/pixel.png)",
    "```<img/src=x/onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <svg onload=window.hacked=1> |",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; <!-- <b> --> <iframe srcdoc='<script>window.hacked=1</script>'>",
    '[a](https://x.example/"onmouseover="window.hacked=1) <a href="https://x.example">b</a>',
    "# <h1 onclick=window.hacked=1>\n> <form action=https://evil.example>\n- <style>*{display:none}</style>",
]


@pytest.fixture(scope="module")
def shown(browser, served):
    """What pieces of text become, as HTML."""
    page = browser.new_page()
    page.goto(served.url)
    yield lambda *pieces: page.evaluate(SHOWN, list(pieces))
    page.close()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("# A *b*\n### C ##\n#no", "<h3>A <em>b</em></h3><h5>C</h5><p>#no</p>"),
        ("a **b _c_** ~~d~~ `e*f*`", "<p>a <strong>b <em>c</em></strong> <s>d</s> <code>e*f*</code></p>"),
        ("2 * 3 * 4, a_b_c, __init__, ** x **", "<p>2 * 3 * 4, a_b_c, __init__, ** x **</p>"),
        (r"\*a\* `` b`c `` ***d***", "<p>*a* <code>b`c</code> <strong><em>d</em></strong></p>"),
        ("- a\n- b\n  - c\n\n  d\n- e", "<ul><li>a</li><li>b<ul><li>c</li></ul><p>d</p></li><li>e</li></ul>"),
        ("3. a\n4) b\n   goes on\nlazily", '<ol start="3"><li>a</li><li>b\ngoes on\nlazily</li></ol>'),
        ("1. a\n  - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"),
        ("text\n1. a\n\nin 1999\n2000. no", "<p>text</p><ol><li>a</li></ol><p>in 1999\n2000. no</p>"),
        ("- a\n1. b\n\nc", "<ul><li>a</li></ul><ol><li>b</li></ol><p>c</p>"),
        ("> a\n> - b\n\nc", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><p>c</p>"),
        ("a\n***\nb", "<p>a</p><hr><p>b</p>"),
        ("<b>&amp;</b>", "<p>&lt;b&gt;&amp;amp;&lt;/b&gt;</p>"),
        ("| a | b |\n|:-:|--:|\n| `c` | d\\|e |\n\nf | g",
         '<div class="wide" tabindex="0" role="region" aria-label="Table"><table>'
         '<thead><tr><th class="center">a</th><th class="right">b</th></tr></thead>'
         '<tbody><tr><td class="center"><code>c</code></td><td class="right">d|e</td></tr></tbody></table></div>'
         '<p>f | g</p>'),
        ("a\n```py\nx = 1\n\n  *y*\n```\nb", '<p>a</p><div class="code">' + BAR.format("py")
         + '<pre role="region" aria-label="Code, py" tabindex="0"><code>x = 1\n\n  *y*</code></pre></div><p>b</p>'),
        ("1. a\n   ~~~\n   b\n   ~~~", '<ol><li>a<div class="code">' + BAR.format("")
         + '<pre role="region" aria-label="Code" tabindex="0"><code>b</code></pre></div></li></ol>'),
        ("", ""),
        ("\n \n", ""),
    ],
)  # fmt: skip
def test_what_it_becomes(shown, text, html):
    found = shown(text)
    if "<pre" in html:  # the order of attributes means nothing
        found, html = (part.replace(' tabindex="0"', "") for part in (found, html))
    assert found == html


@pytest.mark.parametrize(
    ("text", "href", "label"),
    [
        ("[a **b**](https://x.example/c?d=(e)&f)", "https://x.example/c?d=(e)&amp;f", "a <strong>b</strong>"),
        ("see https://x.example/a_b_c.", "https://x.example/a_b_c", "https://x.example/a_b_c"),
        ("<https://x.example/>", "https://x.example/", "https://x.example/"),
        ('[m](mailto:a@b.example "title")', "mailto:a@b.example", "m"),
        ("![picture](https://x.example/p.png)", "https://x.example/p.png", "picture"),
    ],
)
def test_links(shown, text, href, label):
    link = f'href="{href}" title="{href}" target="_blank" rel="noopener noreferrer nofollow">{label}</a>'
    found = shown(text)
    assert found.count("<a ") == 1
    assert link in found


@pytest.mark.parametrize(
    "text", ["[a](javascript:x)", "[a](/etc/passwd)", "[a](file:///etc)", "[a](vbscript:x)", "[a]()", "[a]"]
)
def test_no_links(shown, text):
    assert shown(text) == f"<p>{text}</p>"


def test_any_split_gives_the_same(shown):
    dice = random.Random(7)
    parts = ["# h", "text *em* and", "- a", "  - b", "1. c", "```py", "x = `1`", "```", "", "| a | b |", "|---|---|",
             "| 1 | 2 |", "> q", "***", "**x", "y**", "   indented", "~~~", "    code", "-",
             "2. d", "``", "`"]  # fmt: skip
    for _ in range(60):
        text = "\n".join(dice.choice(parts) for _ in range(dice.randint(1, 14)))
        cuts = sorted({0, len(text), *(dice.randint(0, len(text)) for _ in range(8))})
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        assert shown(*pieces) == shown(text), pieces
        assert shown(*text) == shown(text), text


def test_what_is_settled_is_left_alone(browser, server):
    """Elements that stand are not made again, or a long answer would become slow."""
    page = browser.new_page()
    page.goto(server.url)
    made = page.evaluate("""async () => {
      const { Prose } = await import('/page/prose.js');
      const root = document.body.appendChild(document.createElement('div'));
      let added = 0;
      const watch = all => { for (const { addedNodes } of all) added += addedNodes.length; };
      new MutationObserver(watch).observe(root, { childList: true });
      const prose = new Prose(root);
      const first = [];
      for (let number = 0; number < 200; number += 1) {
        for (const piece of ['Some *words* of ', 'paragraph ' + number + '.\\n', '\\n']) {
          prose.push(piece);
          prose.finish();
        }
        first.push(root.firstChild);
      }
      prose.push('```\\n');
      for (let number = 0; number < 500; number += 1) { prose.push('line ' + number + '\\n'); prose.finish(); }
      await new Promise(resolve => setTimeout(resolve));
      return [new Set(first).size, root.childElementCount, added, root.querySelector('code').childNodes.length];
    }""")
    page.close()
    assert made[0] <= 3  # drawn anew while it was the last one
    assert made[1] == 201
    assert made[2] < 1000
    assert made[3] == 1


def test_hostile_text_takes_no_longer_than_other_text(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    for unit in (
        "*",
        "**a",
        "`",
        "[",
        "](",
        "_",
        "~~",
        "> ",
        "- ",
        "|",
        "# ",
        "\\",
        "<https://",
        "![",
        "1. ",
        " ",
        "\t",
        "- \n",
    ):
        took = page.evaluate(
            """async text => {
              const { Prose } = await import('/page/prose.js');
              const prose = new Prose(document.createElement('div'));
              const began = performance.now();
              prose.push(text);
              prose.finish();
              return performance.now() - began;
            }""",
            (unit * 20_000)[:20_000],
        )
        assert took < 3000, unit
    page.close()


def test_attacks_stay_text(server, talker, visit):
    attack = "\n\n".join(ATTACKS)
    talker.says = [
        attack
        + "\n"
        + THOUGHT
        + attack
        + "\n"
        + call("<img src=x onerror=window.hacked=1>", a=attack)
        + call("f", a=attack)
    ]
    visitor = visit(server.url, settings={"thinking": "on", "system": attack, "tools": '[{"name": "f"}]'})
    visitor.say(attack)
    visitor.button("Compute").click()
    visitor.button("Compute").click()
    page = visitor.page
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    unknown = "script:not([src='page/main.js']), style, img, svg, iframe, object, embed, form[action], .turn h1"
    unknown += ", [onclick], [onerror], [onload]"
    assert page.locator(unknown).count() == 0
    hrefs = page.locator(".turn a").evaluate_all("nodes => nodes.map(node => new URL(node.href).protocol)")
    assert set(hrefs) <= {"https:"}
    assert "<script>window.hacked = 1</script>" in visitor.reading.inner_text()
    assert "<img src=x onerror='window.hacked = 1'>" in visitor.reading.inner_text()
    assert page.title() == "Tiny · Homegrown"


def test_code_is_copied(server, talker, visit):
    talker.says = ["```\nx = 1\n```\n\nend"]
    visitor = visit(server.url)
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.say("x")
    visitor.button("Copy the code").click()
    visitor.page.get_by_text("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "x = 1"
    visitor.button("Copy the answer").click()
    visitor.page.wait_for_timeout(50)
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "```\nx = 1\n```\n\nend"
