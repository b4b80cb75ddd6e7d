"""The words of the world: concepts in Chinese, Japanese and English, and the text pairs made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

LANGUAGES = ("zh", "ja", "en")


@dataclass(frozen=True)
class Concept:
    """One meaning and its words, the most usual first. `category` is the name of a broader concept, or empty."""

    name: str
    category: str
    en: tuple[str, ...]
    ja: tuple[str, ...]
    zh: tuple[str, ...]
    says: str  # one English sentence that explains it

    def words(self, language: str) -> tuple[str, ...]:
        return {"en": self.en, "ja": self.ja, "zh": self.zh}[language]


def _concept(name: str, category: str, en: str, ja: str, zh: str, says: str) -> Concept:
    return Concept(name, category, tuple(en.split("|")), tuple(ja.split("|")), tuple(zh.split("|")), says)


SUBJECTS = (  # in the order of shapes.SUBJECTS
    _concept("cat", "animal", "cat|kitty|feline", "猫|ネコ|にゃんこ", "猫|猫咪|小猫",
             "A small pet that purrs and hunts mice."),
    _concept("rabbit", "animal", "rabbit|bunny|hare", "うさぎ|ウサギ|兎", "兔子|小兔|白兔",
             "A long-eared animal that hops and eats carrots."),
    _concept("fox", "animal", "fox|vixen|red fox", "狐|キツネ|きつね", "狐狸|小狐狸|赤狐",
             "A wild relative of the dog with a bushy tail."),
    _concept("bird", "animal", "bird|songbird|little bird", "鳥|小鳥|ことり", "鸟|小鸟|鸟儿",
             "A feathered animal that sings and flies."),
    _concept("owl", "animal", "owl|night owl|owlet", "フクロウ|ふくろう|梟", "猫头鹰|夜枭|鸮",
             "A bird with large eyes that hunts at night."),
    _concept("fish", "animal", "fish|goldfish|little fish", "魚|金魚|おさかな", "鱼|金鱼|小鱼",
             "An animal with fins and gills that lives in water."),
    _concept("whale", "animal", "whale|blue whale|cetacean", "鯨|クジラ|くじら", "鲸鱼|鲸|蓝鲸",
             "The largest animal of the ocean, which breathes air."),
    _concept("jellyfish", "animal", "jellyfish|medusa|sea jelly", "クラゲ|くらげ|海月", "水母|海蜇|发光水母",
             "A soft drifting animal with trailing tentacles."),
    _concept("butterfly", "animal", "butterfly|swallowtail|monarch", "蝶|チョウ|蝶々", "蝴蝶|彩蝶|凤蝶",
             "An insect with two pairs of large painted wings."),
    _concept("turtle", "animal", "turtle|tortoise|sea turtle", "亀|カメ|ウミガメ", "乌龟|海龟|龟",
             "A slow animal that carries its shell on its back."),
    _concept("sunflower", "plant", "sunflower|helianthus|sun flower", "向日葵|ひまわり|ヒマワリ", "向日葵|葵花|太阳花",
             "A tall yellow flower that turns toward the sun."),
    _concept("tulip", "plant", "tulip|tulip flower|garden tulip", "チューリップ|鬱金香|ちゅーりっぷ", "郁金香|洋荷花|草麝香",
             "A spring flower shaped like a cup, famous in Holland."),
    _concept("pine", "plant", "pine tree|conifer|fir tree", "松の木|松|針葉樹", "松树|松柏|冷杉",
             "An evergreen tree with needles and cones."),
    _concept("mushroom", "plant", "mushroom|toadstool|fungus", "きのこ|キノコ|茸", "蘑菇|菌菇|香菇",
             "It has a cap on a stalk and grows in damp woods."),
    _concept("cactus", "plant", "cactus|saguaro|prickly pear", "サボテン|仙人掌|さぼてん", "仙人掌|仙人球|霸王树",
             "A thorny plant that stores water in its stem."),
    _concept("house", "building", "house|cottage|home", "家|一軒家|おうち", "房子|小屋|住宅",
             "A building with a roof in which a family lives."),
    _concept("castle", "building", "castle|fortress|palace", "城|お城|西洋城", "城堡|古堡|宫殿",
             "A strong building with towers for a king or queen."),
    _concept("lighthouse", "building", "lighthouse|beacon|light tower", "灯台|燈台|岬の灯台", "灯塔|航标灯|海边灯塔",
             "A tower on the coast whose lamp guides ships."),
    _concept("torii", "building", "torii|shrine gate|torii gate", "鳥居|神社|お社", "鸟居|神社鸟居|神社",
             "The gate at the entrance of a Japanese shrine."),
    _concept("car", "vehicle", "car|automobile|motorcar", "車|自動車|クルマ", "汽车|轿车|小汽车",
             "A road vehicle with four wheels and an engine."),
    _concept("sailboat", "vehicle", "sailboat|yacht|sailing ship", "帆船|ヨット|帆掛け舟", "帆船|游艇|扬帆",
             "A boat that the wind drives by its sails."),
    _concept("rocket", "vehicle", "rocket|spaceship|spacecraft", "ロケット|宇宙船|宇宙ロケット", "火箭|宇宙飞船|航天飞船",
             "A vehicle that flies into space on a jet of fire."),
    _concept("balloon", "vehicle", "hot air balloon|balloon|aerostat", "気球|熱気球|バルーン", "热气球|观光气球|载人气球",
             "A large bag of hot air that carries a basket."),
    _concept("train", "vehicle", "train|steam locomotive|railway", "電車|列車|汽車", "火车|列车|蒸汽机车",
             "A row of carriages pulled along rails by an engine."),
    _concept("girl", "character", "girl|1girl|young lady", "女の子|少女|女子", "女孩|女孩子|小姑娘",
             "A child or young woman, the heroine of many pictures."),
    _concept("robot", "character", "robot|android|mecha", "ロボット|メカ|機械人形", "机器人|机械人|机甲",
             "A machine that moves and works by itself."),
    _concept("ghost", "character", "ghost|phantom|spook", "幽霊|おばけ|ゴースト", "幽灵|鬼魂|小鬼",
             "The spirit of a dead person that floats and haunts."),
    _concept("snowman", "character", "snowman|snow man|man of snow", "雪だるま|ゆきだるま|スノーマン", "雪人|堆雪人|小雪人",
             "A figure of rolled snow with a carrot for a nose."),
    _concept("cake", "food", "cake|birthday cake|gateau", "ケーキ|洋菓子|ショートケーキ", "蛋糕|奶油蛋糕|甜点",
             "A sweet baked dish with cream and candles."),
    _concept("tea", "food", "tea cup|cup of tea|teatime", "お茶|紅茶|ティーカップ", "茶杯|红茶|下午茶",
             "A hot drink of leaves, served in a small cup."),
)
SCENES = (  # in the order of scenes.SCENES
    _concept("sea", "scenery", "sea|ocean|seaside", "海|海辺|大海原", "大海|海洋|海边",
             "The salt water that covers most of the earth."),
    _concept("mountain", "scenery", "mountain|mountains|peak", "山|山脈|山岳", "高山|群山|山峰",
             "Land that rises high above its surroundings."),
    _concept("city", "scenery", "city|cityscape|skyline", "街|都市|街並み", "城市|都市风景|街景",
             "A place of many tall buildings and many people."),
    _concept("night", "scenery", "night sky|starry sky|stars and moon", "夜空|星空|月夜", "夜空|星空|繁星",
             "The moon and the stars after sunset."),
    _concept("forest", "scenery", "forest|woods|woodland", "森|森林|林", "森林|树林|密林",
             "Land covered with many trees."),
    _concept("desert", "scenery", "desert|dunes|sand sea", "砂漠|砂丘|砂の海", "沙漠|沙丘|大漠",
             "A dry land of sand where it hardly ever rains."),
    _concept("rain", "weather", "rain|rainy day|downpour", "雨|雨の日|大雨", "下雨|雨天|雨水",
             "Drops of water that fall from the clouds."),
    _concept("cloud", "weather", "clouds|cloudy sky|cumulus", "雲|入道雲|雲海", "云|云朵|白云",
             "White shapes of water drops that drift in the sky."),
    _concept("snow", "weather", "snow|snowfall|snowy day", "雪|雪景色|降雪", "下雪|雪景|雪花",
             "White flakes of ice that fall in winter."),
    _concept("meadow", "scenery", "meadow|grassland|green hills", "草原|野原|牧草地", "草地|大草原|原野",
             "An open field of grass and wild flowers."),
)
COUNTS = (
    _concept("alone", "", "solo|alone|single", "ソロ|一人|ひとりぼっち", "单独|独自|孤单",
             "There is only one."),
    _concept("pair", "", "pair|duo|couple", "ペア|二人組|コンビ", "一对|双人|两个",
             "There are two of them together."),
    _concept("group", "", "group|crowd|many", "集団|群れ|大勢", "群体|一群|许多",
             "There are many of them together."),
)
CATEGORIES = (
    _concept("animal", "", "animal|creature|beast", "動物|生き物|アニマル", "动物|生物|野兽",
             "A living thing that moves and eats."),
    _concept("plant", "", "plant|flora|greenery", "植物|草木|グリーン", "植物|花草|绿植",
             "A living thing that grows in the ground."),
    _concept("building", "", "building|architecture|structure", "建物|建築|建造物", "建筑|建筑物|楼房",
             "Something built, with walls and a roof."),
    _concept("vehicle", "", "vehicle|transport|ride", "乗り物|のりもの|交通機関", "交通工具|载具|车船",
             "Something that carries people or goods."),
    _concept("character", "", "character|figure|persona", "キャラクター|登場人物|人物", "角色|人物|登场人物",
             "Someone who appears in a picture or a story."),
    _concept("food", "", "food|meal|treat", "食べ物|フード|ごはん", "食物|美食|食品",
             "What people eat and drink."),
    _concept("scenery", "", "scenery|landscape|background", "風景|背景|景色", "风景|景色|背景",
             "A wide view of a place."),
    _concept("weather", "", "weather|climate|sky conditions", "天気|天候|空模様", "天气|气候|气象",
             "The state of the air: rain, sun, wind or snow."),
    _concept("season", "", "season|seasons|time of year", "季節|四季|シーズン", "季节|四季|时节",
             "One of the four parts of a year."),
)
OTHERS = (  # never drawn: what artists also write under their pictures
    _concept("original", "", "original|original work|original character", "オリジナル|創作|一次創作", "原创|原创作品|自创",
             "Made by the artist, not after another work."),
    _concept("illustration", "", "illustration|artwork|drawing", "イラスト|挿絵|お絵かき", "插画|插图|绘画",
             "A picture that somebody drew."),
    _concept("fan_art", "", "fan art|fanart|tribute", "二次創作|ファンアート|同人", "同人作品|二次创作|同人图",
             "A picture made by an admirer of another work."),
    _concept("commission", "", "commission|commissioned work|request", "依頼|リクエスト|コミッション", "约稿|委托|接稿",
             "A picture that somebody ordered and paid for."),
    _concept("birthday", "", "birthday|happy birthday|birthday party", "誕生日|バースデー|お誕生日", "生日|生日快乐|庆生",
             "The day on which somebody was born."),
    _concept("spring", "season", "spring|springtime|early spring", "春|春先|早春", "春天|春季|初春",
             "The season when flowers open."),
    _concept("summer", "season", "summer|summertime|midsummer", "夏|夏休み|真夏", "夏天|夏季|盛夏",
             "The hottest season of the year."),
    _concept("autumn", "season", "autumn|fall season|late autumn", "秋|紅葉|晩秋", "秋天|秋季|深秋",
             "The season when leaves turn red and fall."),
    _concept("winter", "season", "winter|wintertime|midwinter", "冬|真冬|冬休み", "冬天|冬季|寒冬",
             "The coldest season of the year."),
    _concept("morning", "", "morning|dawn|sunrise", "朝|夜明け|日の出", "早晨|黎明|日出",
             "The part of the day when the sun comes up."),
    _concept("evening", "", "evening|dusk|sunset", "夕方|夕焼け|黄昏", "傍晚|日落|晚霞",
             "The part of the day when the sun goes down."),
    _concept("dream", "", "dream|dreamland|daydream", "夢|夢の中|白昼夢", "梦|梦境|白日梦",
             "What one sees while asleep."),
    _concept("journey", "", "journey|travel|trip", "旅|旅行|旅路", "旅行|旅途|出行",
             "Going from one place to another far away."),
    _concept("music", "", "music|melody|song", "音楽|メロディー|歌", "音乐|旋律|歌曲",
             "Sounds put together to be listened to."),
    _concept("school", "", "school|classroom|campus", "学校|教室|学園", "学校|课堂|校园",
             "A place where children learn."),
    _concept("festival", "", "festival|celebration|fete", "祭り|お祭り|夏祭り", "节日|庆典|庙会",
             "Days on which people celebrate together."),
    _concept("magic", "", "magic|sorcery|spell", "魔法|魔術|マジック", "魔法|法术|巫术",
             "The power to do what nature does not allow."),
    _concept("friendship", "", "friendship|friends|companions", "友情|友達|仲間", "友谊|朋友|伙伴",
             "The bond between people who like each other."),
    _concept("adventure", "", "adventure|quest|expedition", "冒険|探検|アドベンチャー", "冒险|探险|历险记",
             "An exciting undertaking whose end is unknown."),
    _concept("memory", "", "memory|nostalgia|remembrance", "思い出|記憶|追憶", "回忆|记忆|怀旧",
             "What one still knows of the past."),
    _concept("holiday", "", "holiday|vacation|day off", "休日|お休み|バカンス", "假期|假日|休假",
             "Days without work or lessons."),
    _concept("fairy_tale", "", "fairy tale|storybook|folk tale", "童話|おとぎ話|昔話", "童话|童话故事|民间故事",
             "An old story with wonders in it, told to children."),
)
CONCEPTS = SUBJECTS + SCENES + COUNTS + CATEGORIES + OTHERS
INDEX = {concept.name: position for position, concept in enumerate(CONCEPTS)}
FIRST_SCENE, FIRST_COUNT, FIRST_OTHER = INDEX["sea"], INDEX["alone"], INDEX["original"]
_KIND_OF = {"zh": "{}是一种{}。", "ja": "{}は{}の一種です。", "en": "{} is a kind of {}."}
_TITLES = {  # of one subject and scene, and of two subjects
    "zh": ("{0}与{1}", "{1}里的{0}", "{0}", "关于{0}的画"), "ja": ("{0}と{1}", "{1}の{0}", "{0}", "{0}の絵"),
    "en": ("{0} and {1}", "{0}, {1}", "{0}", "Study of {0}")}
TITLE_FORMS = 4

TermRow = tuple[str, str, str, str, str]  # lang_a, text_a, lang_b, text_b, kind


def title(language: str, form: int, first: int, second: int) -> str:
    """The title of a picture of concept `first` and concept `second` in one of TITLE_FORMS forms."""
    text = _TITLES[language][form].format(*(CONCEPTS[which].words(language)[0] for which in (first, second)))
    return text[0].upper() + text[1:]


def term_pairs() -> Iterator[TermRow]:
    """Every text pair of the world, for the fine-tuning of a text encoder (paper table 1).

    Kinds: `multilingual` (the same meaning in two languages, or two synonyms of one), `relation` (a concept and its
    category), `explanation` (a word and a sentence about it).
    """
    for concept in CONCEPTS:
        yield from _same_meaning(concept)
        yield from _explanations(concept)
        if concept.category:
            yield from _relations(concept, CONCEPTS[INDEX[concept.category]])


def _same_meaning(concept: Concept) -> Iterator[TermRow]:
    for language_a, language_b in itertools.combinations_with_replacement(LANGUAGES, 2):
        pairs = (itertools.combinations(concept.words(language_a), 2) if language_a == language_b
                 else itertools.product(concept.words(language_a), concept.words(language_b)))
        for text_a, text_b in pairs:
            if text_a != text_b:  # Chinese and Japanese share some words to the letter
                yield language_a, text_a, language_b, text_b, "multilingual"


def _relations(concept: Concept, category: Concept) -> Iterator[TermRow]:
    for language in LANGUAGES:
        for word in concept.words(language):
            yield language, word, language, category.words(language)[0], "relation"


def _explanations(concept: Concept) -> Iterator[TermRow]:
    for language in LANGUAGES:
        for word in concept.words(language):
            yield language, word, "en", concept.says, "explanation"
        if concept.category:
            word, broader = concept.words(language)[0], CONCEPTS[INDEX[concept.category]].words(language)[0]
            yield language, word, language, _KIND_OF[language].format(word.capitalize(), broader), "explanation"
