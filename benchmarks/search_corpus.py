"""A hundred thousand listings that never were, and questions about them. Same seed, same corpus.

Words come from the marketplace's own taxonomy, from trade words written here, and from made-up words:
Chinese ones of two to four common characters, English ones of syllables. Their frequency falls with
their rank (Zipf), so that some stand in a third of all cards and most in a few. The texts are joined
without blanks in Chinese, as Chinese is: a word's neighbours are whatever comes next.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import accumulate

from catalog.listings.taxonomy import taxonomy
from catalog.search.document import Document

TRADE_WORDS = (
    "短剧 剧本 分镜 口播 电商 商品 文案 客服 直播 跨境 翻译 合同 法务 合规 财务 税务 发票 记账 病历 药品 "
    "问诊 课程 大纲 题库 作业 公文 办事 质检 工艺 设备 仓储 报关 光伏 巡检 造价 图纸 导览 民宿 景区 新闻 "
    "编辑 广告 品牌 招聘 简历 海报 插画 非遗 论文 文献 摘要 分类 抽取 改写 润色 续写 对话 推理 检索 向量 "
    "知识库 智能体 大模型 小模型 轻量化 量化 微调 部署 离线 边缘 手机端 显卡 推理加速 多语种 长文本 低成本 "
    "qwen llama deepseek glm phi gemma mistral yi baichuan internlm chat instruct coder base distill "
    "transformer attention tokenizer context embedding retrieval summary translate contract invoice "
    "quantized int4 int8 fp16 onnx gguf vllm awq gptq lora adapter agent workflow tool json python "
    "cpu gpu npu edge laptop fast small tiny mini pro turbo 0.5b 1.5b 3b 7b 14b 32b v1.2 v2.5"
)
_CHARACTERS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面"
    "而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把"
    "性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质"
    "气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总次品式活"
)
_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl pr st tr"
_CODAS = ",,,l,m,n,r,s,t,x,nd,st"
LICENCES = ("Apache-2.0", "MIT", "LicenseRef-Qwen", "LicenseRef-Llama", "CC-BY-4.0", "proprietary")
SIZES = ("to_1b", "to_4b", "to_10b", "to_40b", "over_40b", "undeclared")
FILINGS = ("filed", "registered", "exempt", "none")
DEVICES = ("cpu", "gpu", "npu", "edge")


class _Words:
    """The vocabulary, and words drawn from it by rank."""

    def __init__(self, chance: random.Random, made_up: int = 12_000) -> None:
        known = [word for term in taxonomy().verticals.values() for word in term.words.split()]
        words = dict.fromkeys([*TRADE_WORDS.split(), *known])
        while len(words) < made_up:
            if chance.random() < 0.75:
                word = "".join(chance.choices(_CHARACTERS, k=chance.choice((2, 2, 2, 3, 4))))
            else:
                word = "".join(_syllable(chance) for _ in range(chance.choice((2, 3))))
            words.setdefault(word)
        self.words = list(words)
        head, tail = self.words[: len(self.words) // 20], self.words[len(self.words) // 20 :]
        chance.shuffle(head)
        chance.shuffle(tail)
        self.words = head + tail
        self.weights = list(accumulate(1 / (rank + 30) for rank in range(len(self.words))))

    def draw(self, chance: random.Random, count: int) -> list[str]:
        return chance.choices(self.words, cum_weights=self.weights, k=count)


def _syllable(chance: random.Random) -> str:
    return "".join(
        (
            chance.choice(_ONSETS.split()),
            chance.choice("aeiou"),
            chance.choice(_CODAS.split(",")),
        )
    )


def _text(words: list[str]) -> str:
    """Join as people write: no blank between Chinese words, one around others, a stop now and then."""
    pieces: list[str] = []
    for place, word in enumerate(words):
        pieces.append(f" {word} " if word.isascii() else word)
        if place % 9 == 8:
            pieces.append("。")
    return "".join(pieces).replace("  ", " ").strip()


def corpus(count: int, seed: int) -> Iterator[Document]:
    """Yield `count` listings of about 220 characters each."""
    chance = random.Random(seed)
    words = _Words(chance)
    shelves = taxonomy()
    verticals, tasks = list(shelves.verticals), list(shelves.tasks)
    for number in range(count):
        yield Document(
            key=f"lst_{number:06d}",
            name=f"{_text(words.draw(chance, 3))} {number}",
            summary=_text(words.draw(chance, 14)),
            body=_text(words.draw(chance, chance.randint(40, 90))),
            facets={
                "kind": ("agent" if chance.random() < 0.3 else "model",),
                "tier": ("public" if chance.random() < 0.9 else "park",),
                "vertical": (chance.choice(verticals),),
                "task": tuple(chance.sample(tasks, chance.randint(1, 3))),
                "language": tuple(chance.sample(("zh", "en", "ja", "yue", "fr"), 2)),
                "licence": (chance.choice(LICENCES),),
                "size": (chance.choice(SIZES),),
                "filing": (chance.choice(FILINGS),),
                "device": tuple(chance.sample(DEVICES, chance.randint(1, 2))),
            },
            popularity=int(chance.paretovariate(0.8)),
            output_tokens_per_s=round(chance.uniform(3, 200), 1),
            quality_bp=chance.randint(2_000, 9_900),
            created_at_us=1_700_000_000_000_000 + number * 1_000_000,
        )


def queries(documents: list[Document], count: int, seed: int) -> list[str]:
    """Return queries of one to four words, as the vocabulary is: mostly Chinese, mostly short.

    In turn: words as frequent as in the cards; words that stand together in one card; and pieces cut
    out of one card without regard to where its words begin.
    """
    words = _Words(random.Random(seed))
    drawn = random.Random(seed + 1)
    asked = []
    for number in range(count):
        size = 1 + number % 4
        card = drawn.choice(documents).body
        match number % 3:
            case 0:
                chosen = words.draw(drawn, size)
            case 1:
                standing = [word for word in words.words[:3_000] if word in card]
                chosen = drawn.sample(standing, min(size, len(standing)))
            case _:
                runs = [run for run in re.split(r"[ 。.]", card) if len(run) > 2]
                chosen = [_piece(drawn, run) for run in drawn.sample(runs, min(size, len(runs)))]
        asked.append(" ".join(chosen))
    return asked


def _piece(drawn: random.Random, run: str) -> str:
    length = min(len(run), drawn.choice((3, 4, 5) if run.isascii() else (2, 2, 2, 3, 4)))
    start = drawn.randint(0, len(run) - length)
    return run[start : start + length]
