"""Build office-guide.pdf, the guide of an invented Korean public office.

Reads: NanumGothic.ttf, NanumGothicBold.ttf and NanumMyeongjo.ttf, nothing else.
Writes: data/raw/pdf_qa/office-guide.pdf. The same reportlab and fonts give the same bytes.
Command: python data/source/build_office_guide.py [folder of the fonts]
Needs: pip install reportlab; apt-get install fonts-nanum
"""

import sys
from pathlib import Path

from reportlab import rl_config
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    BaseDocTemplate,
    Frame,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)
from reportlab.platypus.tableofcontents import TableOfContents

FONT_FOLDER = Path("/usr/share/fonts/truetype/nanum")  # where Debian's fonts-nanum puts them
FONTS = {"Gothic": "NanumGothic.ttf", "Bold": "NanumGothicBold.ttf", "Myeongjo": "NanumMyeongjo.ttf"}
OUTPUT = Path(__file__).parents[1] / "raw/pdf_qa/office-guide.pdf"

# ---- The text ----------------------------------------------------------------------------------
# A block is (kind, value): h1, h2, p, bullets, table, qa, columns (two from here on), page (break).

TITLE = "달여울시민청 이용 안내서"
SUBTITLE = "찾아오시는 길, 연락처, 운영 시간, 수수료, 시설과 강좌, 지원금"
EDITION = "초롱판 제3호"
NOTICE_KO = (
    "이 안내서에 나오는 달여울시와 달여울시민청은 실제로 없는 곳입니다. 기관, 사람, 주소, 전화번호, "
    "금액, 날짜는 모두 언어 모델의 학습과 평가를 연습하려고 지어낸 것입니다. 지역 번호 099는 "
    "대한민국에서 쓰이지 않으며 .example은 예시용으로 남겨 둔 인터넷 주소입니다."
)
NOTICE_EN = (
    "This office does not exist. The city of Dalyeoul, its people, addresses, telephone numbers, fees "
    "and dates are all invented as sample data for training and evaluating language models. "
    "Area code 099 is not assigned in Korea, and .example is a reserved domain."
)
CONTENTS_TITLE = "차례"
CONTENTS_NOTE = [
    "이 안내서는 달여울시민청을 처음 찾는 분이 자주 묻는 내용을 일곱 장에 나누어 담았습니다. "
    "표 안의 시각은 모두 그날의 운영 시각이며, 금액에는 부가세가 들어 있습니다.",
    "본문에서 ‘본청’은 시민청 건물을, ‘분소’는 동부분소, 서부분소, 남부분소를 뜻합니다. "
    "안내서에 없는 내용은 답해 드리기 어려우니 대표전화로 문의해 주십시오.",
]

BODY = [
    ("h1", "1. 찾아오시는 길"),
    ("h2", "1.1 달여울시민청의 주소는 어디인가요?"),
    (
        "p",
        "달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다. 이 안내서에서는 이곳을 본청이라고 부릅니다. "
        "승강기에서 내리면 바로 앞에 종합 안내대가 있습니다.",
    ),
    ("p", "본청에서 가장 가까운 버스 정류장은 돌다리네거리입니다. 정류장에서 강변 쪽으로 걸어오시면 됩니다."),
    ("h2", "1.2 분소와 소속 기관의 위치"),
    ("p", "가까운 분소에서도 증명서를 떼고 신고서를 낼 수 있습니다. 여권은 본청에서만 신청합니다."),
    (
        "table",
        {
            "widths": [34, 70, 66],
            "rows": [
                ["기관", "주소", "맡은 일"],
                ["동부분소", "달여울시 느린강길 88, 2층", "증명서 발급, 전입 신고"],
                ["서부분소", "달여울시 세모숲로 1203, 4층", "증명서 발급, 세금 상담"],
                ["남부분소", "달여울시 옹기마루길 59, 3층", "증명서 발급, 영업 신고"],
                ["반딧불도서관", "달여울시 달무리길 276", "책 대출, 열람실, 강좌"],
                ["온기보건소", "달여울시 쪽배로 934", "진료, 예방접종"],
            ],
        },
    ),
    ("h2", "1.3 본청 안의 주요 창구"),
    ("p", "본청의 방 번호에서 첫 숫자는 층을 뜻합니다. 찾는 방을 모르시면 종합 안내대에 말씀해 주십시오."),
    (
        "table",
        {
            "widths": [44, 34, 92],
            "rows": [
                ["창구", "호실", "이용 안내"],
                ["여권 창구", "712호", "신청서를 쓰고 번호표를 뽑아 기다립니다."],
                ["법률상담실", "805호", "상담은 예약한 차례대로 합니다."],
                ["분실물 보관소", "918호", "신분증을 보여 주시면 물건을 돌려 드립니다."],
            ],
        },
    ),
    ("h2", "1.4 승강기와 휠체어 이용"),
    (
        "bullets",
        [
            "승강기는 정문과 후문 양쪽에 있습니다.",
            "휠체어는 종합 안내대에서 무료로 빌려 드립니다.",
            "안내견은 모든 층에 함께 들어갈 수 있습니다.",
        ],
    ),
    ("page", None),
    ("h1", "2. 연락처"),
    ("h2", "2.1 부서와 기관의 전화번호"),
    (
        "p",
        "어느 부서인지 모르실 때에는 대표전화로 걸어 주십시오. 달여울시민청 대표전화는 099-731-2648입니다. "
        "업무가 끝난 뒤의 급한 일은 야간 당직실에서 받습니다.",
    ),
    (
        "table",
        {
            "widths": [42, 48, 80],
            "rows": [
                ["부서", "전화번호", "문의할 수 있는 내용"],
                ["대표전화", "099-731-2648", "일반 문의와 부서 연결"],
                ["여권과", "099-731-5913", "여권 신청과 수령"],
                ["세무과", "099-732-8027", "주민세 등 지방세"],
                ["복지과", "099-604-3175", "출산과 청년 지원, 어르신 혜택"],
                ["반딧불도서관", "099-845-6302", "대출, 열람실, 강좌"],
                ["온기보건소", "099-519-7480", "진료와 예방접종"],
                ["야간 당직실", "099-277-9156", "밤사이의 급한 신고"],
                ["팩스", "099-388-4521", "서류 보내기"],
            ],
        },
    ),
    ("p", "글로 남기시려면 전자우편을 이용해 주십시오. 문의 이메일은 help@dalyeoul.example입니다."),
    ("h2", "2.2 기관을 이끄는 사람"),
    (
        "table",
        {
            "widths": [56, 56, 58],
            "rows": [
                ["직위", "이름", "소속"],
                ["달여울시민청장", "탁시온", "본청"],
                ["반딧불도서관장", "설해린", "반딧불도서관"],
                ["온기보건소장", "어진명", "온기보건소"],
            ],
        },
    ),
    ("p", "달여울시민청장은 탁시온 청장입니다. 도서관은 설해린 관장이, 보건소는 어진명 소장이 맡고 있습니다."),
    ("h2", "2.3 생활 불편을 맡은 팀"),
    (
        "bullets",
        [
            "불법 주차 신고는 길섶질서팀이 맡습니다. 사진을 함께 보내 주시면 처리가 빠릅니다.",
            "대형 폐기물은 되살림자원팀이 맡습니다. 내놓기 전에 미리 신고해 주십시오.",
        ],
    ),
    ("page", None),
    ("h1", "3. 운영 시간"),
    ("h2", "3.1 기관마다 여는 시각과 닫는 시각"),
    (
        "table",
        {
            "widths": [48, 40, 40, 42],
            "rows": [
                ["구분", "여는 시각", "닫는 시각", "비고"],
                ["본청 평일", "오전 8시 40분", "오후 5시 50분", "월요일부터 금요일"],
                ["수요일 야간 민원", "-", "오후 8시 20분", "여권, 증명서"],
                ["토요일 민원", "오전 9시 15분", "낮 12시 40분", "증명서만"],
                ["반딧불도서관", "오전 7시 35분", "오후 10시 5분", "매월 셋째 화요일 휴관"],
                ["온기보건소 진료", "오전 9시 25분", "오후 4시 35분", "평일만"],
                ["물비늘수영장", "오전 5시 45분", "오후 8시 45분", "연중"],
                ["무인민원발급기", "-", "밤 11시 30분", "본청 정문 앞"],
            ],
        },
    ),
    ("h2", "3.2 본청과 민원 창구"),
    (
        "p",
        "본청은 평일 오전 8시 40분에 문을 엽니다. 업무는 오후 5시 50분에 마칩니다. 창구 직원의 점심시간은 "
        "낮 12시 10분에 시작합니다. 점심시간에도 증명서 창구 하나는 열어 둡니다.",
    ),
    (
        "p",
        "낮에 오시기 어려운 분을 위해 수요일에는 야간 민원을 받습니다. 수요일 야간 민원은 오후 8시 20분까지입니다. "
        "토요일 민원은 오전 9시 15분에 시작합니다.",
    ),
    ("h2", "3.3 반딧불도서관은 언제 쉬나요?"),
    ("p", "반딧불도서관은 매월 셋째 화요일에 쉽니다. 쉬는 날에는 정문 옆 반납함에 책을 넣어 주십시오."),
    ("h2", "3.4 무인민원발급기와 온라인 창구"),
    (
        "p",
        "무인민원발급기는 밤 11시 30분까지 운영합니다. 집에서는 온라인 창구로 신청하실 수 있습니다. "
        "온라인 창구는 on.dalyeoul.example입니다. 온라인 창구는 쉬는 날 없이 이용하실 수 있습니다.",
    ),
    ("page", None),
    ("h1", "4. 수수료와 처리 기간"),
    ("h2", "4.1 수수료를 내는 방법"),
    (
        "p",
        "수수료는 신청할 때 창구에서 내십시오. 현금과 카드를 모두 받습니다. 처리 기간은 신청한 다음 날부터 "
        "셉니다. 토요일과 공휴일은 세지 않습니다. 서류가 모자라면 채워 내신 날부터 다시 셉니다.",
    ),
    ("h2", "4.2 업무별 수수료와 처리 기간"),
    ("p", "표는 다음 쪽으로 이어집니다. 줄표(-)는 수수료가 없거나 그 자리에서 처리한다는 뜻입니다."),
    (
        "table",
        {
            "widths": [62, 34, 30, 44],
            "rows": [
                ["업무", "수수료", "처리 기간", "접수하는 곳"],
                ["여권 발급", "47,300원", "8일", "여권 창구"],
                ["여권 기재 사항 변경", "6,100원", "4일", "여권 창구"],
                ["인감증명서", "730원", "-", "본청, 분소"],
                ["주민등록등본", "480원", "-", "본청, 분소"],
                ["주민등록초본", "460원", "-", "본청, 분소"],
                ["가족관계증명서", "1,150원", "-", "본청, 분소"],
                ["혼인관계증명서", "1,180원", "-", "본청, 분소"],
                ["제적등본", "640원", "-", "본청"],
                ["납세증명서", "870원", "-", "본청, 서부분소"],
                ["출입국 사실 증명서", "2,150원", "-", "본청"],
                ["병적증명서", "520원", "-", "본청"],
                ["토지대장 열람", "390원", "-", "본청"],
                ["지적도 발급", "920원", "-", "본청"],
                ["영업 신고", "26,400원", "5일", "본청, 남부분소"],
                ["영업자 지위 승계", "9,700원", "4일", "본청, 남부분소"],
                ["건축 허가", "71,500원", "17일", "본청"],
                ["건축 신고", "18,900원", "13일", "본청"],
                ["옥외 광고물 허가", "12,300원", "10일", "본청"],
                ["도로 점용 허가", "7,400원", "12일", "본청"],
                ["공연장 등록", "24,600원", "15일", "본청"],
                ["영화 상영관 등록", "22,800원", "14일", "본청"],
                ["게임 시설 등록", "16,700원", "9일", "본청"],
                ["식품 제조 등록", "28,600원", "11일", "본청"],
                ["장롱 배출", "9,400원", "2일", "본청, 분소"],
                ["매트리스 배출", "8,200원", "2일", "본청, 분소"],
                ["책상 배출", "5,300원", "2일", "본청, 분소"],
                ["시민카드 발급", "-", "-", "본청, 분소"],
                ["시민카드 재발급", "3,900원", "-", "본청, 분소"],
                ["인감 등록", "-", "-", "본청, 분소"],
                ["전입 신고", "-", "-", "본청, 분소"],
                ["이의 신청 결과 통지", "-", "21일", "본청"],
                ["정보 공개 청구", "1,720원", "10일", "본청"],
            ],
        },
    ),
    ("p", "여권 발급은 긴급한 사정이 있어도 기간이 줄지 않습니다. 이의 신청 결과는 21일 안에 우편으로 알려 드립니다."),
    ("h2", "4.3 신청할 때 내는 서식"),
    ("p", "서식은 창구 옆 서식대에 놓여 있고 온라인 창구에서도 내려받을 수 있습니다."),
    (
        "table",
        {
            "widths": [54, 44, 72],
            "rows": [
                ["업무", "필요한 서식", "함께 가져올 것"],
                ["인감 등록", "제38호 서식", "신분증, 도장"],
                ["전입 신고", "제52호 서식", "신분증, 임대차 계약서"],
                ["이의 신청", "제66호 서식", "처분 통지서"],
            ],
        },
    ),
    ("h2", "4.4 수수료를 돌려받을 수 있나요?"),
    (
        "p",
        "처리를 시작하기 전에 신청을 거두시면 수수료를 모두 돌려 드립니다. "
        "증명서를 이미 뽑은 뒤에는 돌려 드리지 않습니다.",
    ),
    ("columns", None),
    ("h1", "5. 시설과 강좌"),
    ("h2", "5.1 주차장"),
    (
        "p",
        "본청 주차장은 지하에 있습니다. 본청 주차장에는 264대를 세울 수 있습니다. 주차는 처음 55분 동안 무료입니다. "
        "그 뒤의 주차 요금은 한 시간에 1,350원입니다.",
    ),
    ("h2", "5.2 셔틀버스"),
    (
        "p",
        "셔틀버스는 본청과 분소를 돕니다. 첫차는 오전 6시 52분에, 막차는 오후 9시 38분에 떠납니다. "
        "셔틀버스는 18분 간격으로 다닙니다. 타실 때 요금은 받지 않습니다.",
    ),
    ("h2", "5.3 반딧불도서관"),
    (
        "p",
        "책은 한 번에 13권까지, 19일 동안 빌릴 수 있습니다. 열람실은 328석입니다. 자리는 들어오실 때 "
        "기계에서 고르십시오. 대출증은 시민카드로 갈음합니다.",
    ),
    ("h2", "5.4 물비늘수영장"),
    ("p", "물비늘수영장 이용료는 한 번에 4,600원입니다. 수영모를 꼭 써 주십시오. 어린이는 보호자와 함께 들어옵니다."),
    ("h2", "5.5 너울대강당과 두레회의실"),
    (
        "p",
        "너울대강당 좌석은 모두 612석입니다. 두레회의실 대관료는 32,500원입니다. 대관 신청은 온라인 창구에서 받습니다.",
    ),
    ("h2", "5.6 온기보건소 예방접종"),
    ("p", "독감 예방접종 비용은 15,800원입니다. 접종을 마치면 잠시 앉아 쉬었다가 돌아가십시오."),
    ("h2", "5.7 도자기 교실"),
    (
        "p",
        "도자기 교실은 4월 14일에 시작합니다. 정원은 22명입니다. 흙과 연장은 교실에 갖추어 두었습니다. "
        "만든 그릇은 구운 뒤에 찾아가십시오.",
    ),
    ("h2", "5.8 코딩 교실"),
    (
        "p",
        "코딩 교실은 7월 23일에 시작합니다. 수강료는 58,000원입니다. 노트북은 빌려 드립니다. "
        "처음 배우는 분에게 맞춘 강좌입니다.",
    ),
    ("h2", "5.9 달빛물결축제"),
    (
        "p",
        "달빛물결축제는 10월 26일에 강변에서 열립니다. 등불 띄우기와 작은 음악회가 이어집니다. "
        "비가 오면 너울대강당으로 자리를 옮깁니다.",
    ),
    ("h2", "5.10 벼룩시장"),
    (
        "p",
        "벼룩시장은 매월 둘째 일요일에 본청 앞마당에서 열립니다. 새 물건과 음식은 팔 수 없습니다. "
        "자리는 온라인 창구에서 신청하십시오.",
    ),
    ("h2", "5.11 시설을 함께 쓰는 약속"),
    (
        "bullets",
        [
            "건물 안에서는 담배를 피우지 않습니다.",
            "빌린 물건은 제자리에 돌려놓습니다.",
            "큰 짐은 종합 안내대에 맡길 수 있습니다.",
            "사진을 찍을 때에는 다른 분께 먼저 여쭙니다.",
        ],
    ),
    ("single", None),
    ("h1", "6. 지원금과 마감일"),
    ("h2", "6.1 한눈에 보는 지원과 기한"),
    (
        "table",
        {
            "widths": [46, 44, 46, 34],
            "rows": [
                ["이름", "금액", "기한", "담당"],
                ["출산 지원금", "127만 원", "출생 뒤 70일 안", "복지과"],
                ["청년 월세 지원", "매달 185,000원", "3월 27일", "복지과"],
                ["시민장학금", "96만 원", "8월 11일", "복지과"],
                ["주민세", "고지서에 적힌 금액", "9월 16일", "세무과"],
            ],
        },
    ),
    ("h2", "6.2 출산 지원금은 얼마인가요?"),
    (
        "p",
        "출산 지원금은 127만 원입니다. 아이가 태어난 뒤 70일 안에 복지과에 신청하십시오. 부모 가운데 한 사람이 "
        "달여울시에 살고 있으면 됩니다.",
    ),
    ("h2", "6.3 청년 월세 지원"),
    (
        "p",
        "청년 월세 지원금은 매달 185,000원입니다. 청년 월세 지원은 3월 27일에 마감합니다. 임대차 계약서와 "
        "월세를 낸 통장 사본을 내 주십시오.",
    ),
    ("h2", "6.4 시민장학금"),
    (
        "p",
        "시민장학금은 한 사람에게 96만 원입니다. 시민장학금 신청은 8월 11일에 마감합니다. "
        "성적보다 지역 봉사 활동을 먼저 봅니다.",
    ),
    ("h2", "6.5 주민세는 언제까지 내야 하나요?"),
    (
        "p",
        "주민세는 9월 16일까지 내야 합니다. 기한을 넘기면 가산금이 붙습니다. 내는 방법은 고지서 뒷면에 적혀 있습니다.",
    ),
    ("h2", "6.6 어르신 교통카드"),
    (
        "p",
        "어르신 교통카드는 68세부터 받을 수 있습니다. "
        "신분증을 가지고 본청이나 분소로 오시면 그 자리에서 만들어 드립니다. "
        "카드를 잃어버리셨을 때에는 복지과에 알려 주십시오.",
    ),
    ("page", None),
    ("h1", "7. 자주 묻는 질문"),
    ("qa", ("동부분소에서도 여권을 신청할 수 있나요?", "여권은 본청 712호 여권 창구에서만 신청할 수 있습니다.")),
    ("qa", ("여권 발급은 며칠 걸리나요?", "여권 발급은 8일 걸립니다. 토요일과 공휴일은 세지 않습니다.")),
    ("qa", ("퇴근한 뒤에 민원을 볼 수 있나요?", "수요일에는 오후 8시 20분까지 야간 민원을 받습니다.")),
    ("qa", ("인감증명서 수수료는 얼마인가요?", "인감증명서 수수료는 730원입니다.")),
    ("qa", ("주차 요금은 어떻게 계산하나요?", "처음 55분은 무료이고, 그 뒤에는 한 시간에 1,350원입니다.")),
    ("qa", ("반딧불도서관에서 책을 몇 권까지 빌릴 수 있나요?", "책은 한 번에 13권까지 빌릴 수 있습니다.")),
    ("qa", ("잃어버린 물건은 어디에서 찾나요?", "분실물 보관소인 본청 918호에서 찾으실 수 있습니다.")),
    ("qa", ("불법 주차는 어디에 신고하나요?", "불법 주차 신고는 길섶질서팀이 맡습니다.")),
    ("qa", ("벼룩시장은 언제 열리나요?", "벼룩시장은 매월 둘째 일요일에 열립니다.")),
    ("qa", ("온라인 창구에서는 무엇을 할 수 있나요?", "증명서 신청, 대관 신청, 서식 내려받기를 할 수 있습니다.")),
    ("qa", ("비가 와도 축제를 하나요?", "비가 오면 너울대강당으로 자리를 옮겨서 엽니다.")),
    ("qa", ("어르신 교통카드는 몇 살부터 받나요?", "어르신 교통카드는 68세부터 받을 수 있습니다.")),
    ("p", "찾으시는 내용이 없으면 대표전화 099-731-2648로 문의해 주십시오."),
]

# ---- The layout --------------------------------------------------------------------------------

MARGIN = 20 * mm
TOP, BOTTOM, GUTTER = 26 * mm, 22 * mm, 9 * mm
INK, RULE, SHADE = colors.HexColor("#1f2d3d"), colors.HexColor("#7b8794"), colors.HexColor("#e8eef4")


def style(name: str, font: str, size: float, **options) -> ParagraphStyle:
    options = {"leading": size * 1.6, "textColor": INK} | options
    return ParagraphStyle(name, fontName=font, fontSize=size, **options)


STYLES = {
    "title": style("title", "Bold", 28, spaceAfter=8 * mm),
    "subtitle": style("subtitle", "Gothic", 12.5, spaceAfter=4 * mm),
    "notice": style("notice", "Gothic", 11),
    "h0": style("h0", "Bold", 17, spaceAfter=4 * mm),
    "h1": style("h1", "Bold", 17, spaceAfter=3 * mm),
    "h2": style("h2", "Bold", 12, spaceBefore=4.5 * mm, spaceAfter=1.5 * mm, keepWithNext=1),
    "p": style("p", "Myeongjo", 10.5, spaceAfter=2 * mm),
    "bullets": style("bullets", "Myeongjo", 10.5, leftIndent=5 * mm, bulletIndent=1.5 * mm, spaceAfter=1 * mm),
    "cell": style("cell", "Gothic", 9.5),
    "head": style("head", "Bold", 9.5),
    "question": style("question", "Bold", 11, spaceBefore=3 * mm, keepWithNext=1),
    "answer": style("answer", "Myeongjo", 10.5, spaceAfter=1.5 * mm),
    "contents": style("contents", "Gothic", 11, leading=15, spaceBefore=1 * mm),
    "contents2": style("contents2", "Gothic", 9.5, leading=12.5, leftIndent=6 * mm),
}


class Guide(BaseDocTemplate):
    """A document that reports its headings to the table of contents."""

    def afterFlowable(self, flowable) -> None:
        level = {"h1": 0, "h2": 1}.get(getattr(getattr(flowable, "style", None), "name", ""))
        if level is not None:
            self.notify("TOCEntry", (level, flowable.getPlainText(), self.page))


def draw_header_and_footer(canvas, document) -> None:
    width, height = A4
    canvas.saveState()
    canvas.setStrokeColor(RULE)
    canvas.setFillColor(INK)
    canvas.setFont("Gothic", 8.5)
    canvas.drawString(MARGIN, height - 16 * mm, TITLE)
    canvas.drawRightString(width - MARGIN, height - 16 * mm, "가상의 기관 · Fictional office")
    canvas.line(MARGIN, height - 18 * mm, width - MARGIN, height - 18 * mm)
    canvas.line(MARGIN, 16 * mm, width - MARGIN, 16 * mm)
    canvas.drawCentredString(width / 2, 11 * mm, f"- {document.page} -")
    canvas.restoreState()


def page_templates() -> list[PageTemplate]:
    width, height = A4
    inner, tall = width - 2 * MARGIN, height - TOP - BOTTOM
    half = (inner - GUTTER) / 2
    no_padding = dict(leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0)
    full = Frame(MARGIN, BOTTOM, inner, tall, **no_padding)
    left = Frame(MARGIN, BOTTOM, half, tall, **no_padding)
    right = Frame(MARGIN + half + GUTTER, BOTTOM, half, tall, **no_padding)
    return [
        PageTemplate("cover", [full]),
        PageTemplate("single", [full], onPage=draw_header_and_footer),
        PageTemplate("columns", [left, right], onPage=draw_header_and_footer),
    ]


def ruled_table(widths: list[float], rows: list[list[str]]) -> Table:
    """Widths in millimetres. The first row is the head and is repeated on the next page."""
    cells = [[Paragraph(text, STYLES["head" if i == 0 else "cell"]) for text in row] for i, row in enumerate(rows)]
    rules = TableStyle(
        [
            ("GRID", (0, 0), (-1, -1), 0.6, RULE),
            ("BACKGROUND", (0, 0), (-1, 0), SHADE),
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ("TOPPADDING", (0, 0), (-1, -1), 2.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3.5),
        ]
    )
    return Table(cells, [width * mm for width in widths], repeatRows=1, style=rules, spaceBefore=4, spaceAfter=8)


def flowables(kind: str, value) -> list:
    if kind == "table":
        return [ruled_table(**value)]
    if kind == "bullets":
        return [Paragraph(text, STYLES["bullets"], bulletText="•") for text in value]
    if kind == "qa":
        question, answer = value
        return [Paragraph(f"Q. {question}", STYLES["question"]), Paragraph(f"A. {answer}", STYLES["answer"])]
    if kind in ("columns", "single"):
        return [NextPageTemplate(kind), PageBreak()]
    if kind == "page":
        return [PageBreak()]
    return [Paragraph(value, STYLES[kind])]


def story() -> list:
    contents = TableOfContents(dotsMinLevel=0)
    contents.tableStyle = TableStyle(
        [
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 0.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5),
        ]
    )
    contents.levelStyles = [STYLES["contents"], STYLES["contents2"]]
    notice = Table(
        [
            [Paragraph("알리는 말씀", STYLES["head"])],
            [Paragraph(NOTICE_KO, STYLES["notice"])],
            [Paragraph("Please note", STYLES["head"])],
            [Paragraph(NOTICE_EN, STYLES["notice"])],
        ],
        [A4[0] - 2 * MARGIN],
        style=TableStyle(
            [
                ("BOX", (0, 0), (-1, -1), 1, INK),
                ("BACKGROUND", (0, 0), (-1, -1), SHADE),
                ("LEFTPADDING", (0, 0), (-1, -1), 12),
                ("RIGHTPADDING", (0, 0), (-1, -1), 12),
                ("TOPPADDING", (0, 0), (-1, -1), 6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
            ]
        ),
    )
    pages = [
        Spacer(1, 50 * mm),
        Paragraph(TITLE, STYLES["title"]),
        Paragraph(SUBTITLE, STYLES["subtitle"]),
        Paragraph(EDITION, STYLES["subtitle"]),
        Spacer(1, 40 * mm),
        notice,
        NextPageTemplate("single"),
        PageBreak(),
        Paragraph(CONTENTS_TITLE, STYLES["h0"]),
        contents,
        Spacer(1, 8 * mm),
    ]
    pages += [Paragraph(text, STYLES["p"]) for text in CONTENTS_NOTE] + [PageBreak()]
    for kind, value in BODY:
        pages += flowables(kind, value)
    return pages


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FONT_FOLDER
    missing = [file for file in FONTS.values() if not (folder / file).is_file()]
    if missing:
        sys.exit(f"{folder} lacks {', '.join(missing)}: apt-get install fonts-nanum, or name the folder that has them")
    rl_config.useA85 = 0  # binary streams: a fifth smaller than text ones
    for name, file in FONTS.items():
        pdfmetrics.registerFont(TTFont(name, str(folder / file)))
    Guide(
        str(OUTPUT),
        pagesize=A4,
        pageTemplates=page_templates(),
        invariant=1,
        title=TITLE,
        author="Graft (invented sample data)",
        subject=NOTICE_EN,
        lang="ko",
    ).multiBuild(story())


if __name__ == "__main__":
    main()
